//! `pool`: poolings beside the memory's roof.

use std::io::Write;

use harness::pinning::Pool;
use harness::pooling::bench::{Row, bench};
use harness::report::numbers::{digits, percent, time};
use harness::report::results::threads;
use harness::report::text::text_table;
use kernels::Layout;

use crate::{Outcome, Stop, args, progress, refused};

pub(crate) fn pool(args: &args::Pool, out: &mut dyn Write) -> Outcome {
    let each = crate::bench::seconds("--time", args.time, 3600.0)?;
    let layouts = args.layout.map_or(vec![Layout::Nchw, Layout::Nhwc], |layout| vec![layout.into()]);
    progress::catch_interrupts();
    let mut all: Vec<Row> = Vec::new();
    for &number in &args.threads {
        let pool = Pool::new(number).map_err(refused)?;
        for &layout in &layouts {
            bench(layout, &pool, each, &mut |rows| {
                all.extend(rows.into_iter().flatten().cloned());
                !progress::interrupted()
            })
            .map_err(refused)?;
        }
    }
    if progress::interrupted() {
        return Err(Stop::Failed("stopped before all rows were measured".to_owned()));
    }
    if args.json {
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&all).map_err(refused)?)?);
    }
    let heads = ["pooling", "what", "threads", "time", "GB/s", "of roof", "roof"];
    let cells = |row: &Row| {
        vec![
            format!("{} {} {} {}", row.name, row.layout, row.pooling, row.way),
            row.what.clone(),
            threads(row.threads),
            time(row.median_ns),
            digits(row.gb_s),
            percent(row.of_roof),
            format!("{} in {}", digits(row.roof_gb_s), row.level),
        ]
    };
    Ok(write!(out, "{}", text_table(&heads, &all.iter().map(cells).collect::<Vec<_>>()))?)
}
