//! Every convolution of a small box on every kernel: no corner of it is left to chance. Data are
//! integers, so kernels that sum products have to be exact.

use harness::data::Kind;
use harness::strategy::Case;
use harness::verify::{forms, run_case};
use kernels::{ConvSpec, Layout, Padding, PlanOptions};

/// The box: sizes 1 to 5, kernels to 3 and of 5, strides to 3, paddings 0 to 2, dilations to 2, groups, layouts;
/// invalid combinations fall out.
fn specs() -> Vec<ConvSpec> {
    let mut specs = Vec::new();
    let channels = [(1, 1, 1), (2, 3, 1), (3, 2, 1), (2, 4, 2), (3, 3, 3), (16, 6, 2)];
    let windows = [([1, 1], [1, 1]), ([3, 3], [1, 1]), ([2, 3], [1, 1]), ([3, 2], [2, 1]), ([3, 3], [2, 2])];
    let windows = windows.into_iter().chain([([5, 5], [1, 1])]);
    let paddings = [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 2, 0], [2, 0, 1, 2], [2, 2, 2, 2]];
    for (c, o, groups) in channels {
        for [height, width] in [[1, 1], [1, 4], [2, 3], [3, 3], [4, 5], [5, 4]] {
            for (kernel, dilation) in windows.clone() {
                for stride in [[1, 1], [2, 2], [1, 3]] {
                    for [top, left, bottom, right] in paddings {
                        for layout in [Layout::Nchw, Layout::Nhwc] {
                            let spec = ConvSpec::builder()
                                .in_channels(c)
                                .input_size(height, width)
                                .out_channels(o)
                                .kernel(kernel[0], kernel[1])
                                .stride(stride[0], stride[1])
                                .dilation(dilation[0], dilation[1])
                                .padding(Padding { top, left, bottom, right })
                                .groups(groups)
                                .layout(layout)
                                .build();
                            specs.extend(spec);
                        }
                    }
                }
            }
        }
    }
    specs
}

#[test]
fn the_whole_box() {
    let specs = specs();
    for kernel in forms() {
        let mut cases = 0;
        for spec in specs.iter().filter(|spec| kernel.supports(spec).is_ok()) {
            let case = Case {
                spec: *spec,
                options: PlanOptions::default(),
                with_bias: true,
                kind: Kind::Integer,
                offset: 1,
                seed: cases,
            };
            if let Err(what) = run_case(kernel, &case) {
                panic!("{} on `{spec}`: {what}", kernel.id());
            }
            cases += 1;
        }
        println!("{:24} {cases} of {} convolutions", kernel.id(), specs.len());
        assert!(cases > 100, "{} supports only {cases} of the box", kernel.id());
    }
}
