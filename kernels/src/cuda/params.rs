//! What a kernel is told about a convolution.

/// Declares [`Params`] and the list of its fields, which a test compares with `device/params.cuh`.
macro_rules! params {
    ($($(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        /// `Params` of `device/params.cuh`, field by field; all are four bytes, so that there is no padding.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub(crate) struct Params {
            $($(#[$doc])* pub(crate) $field: $type,)*
        }

        #[cfg(test)]
        const FIELDS: &[(&str, &str)] = &[$((stringify!($type), stringify!($field)),)*];
    };
}

params! {
    /// Images × output rows × output columns.
    pixels: i32,
    /// Filters of a group.
    filters: i32,
    groups: i32,
    /// Steps of a group's reduction, up to a whole number of tiles.
    steps: i32,
    /// Parts that the reduction is cut into.
    splits: i32,
    /// Steps of each part but the last.
    split_steps: i32,
    /// Tiles that cover a group's filters.
    filter_tiles: i32,
    /// Tiles that cover the pixels.
    pixel_tiles: i32,
    /// f32s of a row of packed weights.
    weight_pitch: i32,
    /// f32s of a group's packed weights.
    weight_group: i32,
    /// Input channels of a group.
    channels: i32,
    in_height: i32,
    in_width: i32,
    out_height: i32,
    out_width: i32,
    kernel_height: i32,
    kernel_width: i32,
    stride_y: i32,
    stride_x: i32,
    pad_top: i32,
    pad_left: i32,
    dilation_y: i32,
    dilation_x: i32,
    /// Distances in f32s: from image to image, channel to channel, row to row, column to column.
    in_image: i32,
    in_channel: i32,
    in_row: i32,
    in_column: i32,
    out_image: i32,
    out_channel: i32,
    /// From output column to output column; rows follow each other without a gap.
    out_pixel: i32,
    /// f32s of the output, and of each part in scratch memory.
    out_len: i32,
    /// 1 if the previous output is added.
    accumulate: i32,
    /// Limits of the activation.
    min: f32,
    max: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sides read the same bytes.
    #[test]
    fn has_the_fields_of_the_device_code() {
        let source = include_str!("device/params.cuh");
        let body = source.split("struct Params {").nth(1).unwrap().split("};").next().unwrap();
        let fields: Vec<(&str, &str)> = body
            .lines()
            .map(|line| line.split("//").next().unwrap().trim().trim_end_matches(';'))
            .filter(|line| !line.is_empty())
            .map(|line| line.split_once(' ').unwrap())
            .map(|(kind, name)| (if kind == "int" { "i32" } else { "f32" }, name))
            .collect();
        assert_eq!(fields, FIELDS);
        assert_eq!(size_of::<Params>(), 4 * FIELDS.len());
    }
}
