//! Grids of small pictures as PNG, curves as SVG.

use std::error::Error;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

/// What is dark and what is bright.
#[derive(Clone, Copy)]
pub(crate) enum Scale {
    /// 0 is black, the largest value white.
    Positive,
    /// 0 is grey, the largest size black or white.
    Signed,
}

/// Draws maps of one size, so many in a row, each scaled by its own largest value.
pub(crate) fn grid(
    path: &Path,
    values: &[f32],
    [height, width]: [usize; 2],
    columns: usize,
    scale: Scale,
) -> Result<(), Box<dyn Error>> {
    /// Pixels between maps.
    const GAP: usize = 4;
    // Pixels of the picture for one of a map.
    let zoom = (120 / width).max(6);
    let maps = values.chunks_exact(height * width);
    let columns = columns.min(maps.len());
    let rows = maps.len().div_ceil(columns.max(1));
    let (cell_height, cell_width) = (height * zoom + GAP, width * zoom + GAP);
    let size = [columns * cell_width + GAP, rows * cell_height + GAP];
    let mut pixels = vec![40u8; size[0] * size[1]];
    for (i, map) in maps.enumerate() {
        let most = map.iter().fold(1e-9f32, |most, x| most.max(x.abs()));
        let (top, left) = (GAP + i / columns * cell_height, GAP + i % columns * cell_width);
        for y in 0..height * zoom {
            for x in 0..width * zoom {
                let value = map[y / zoom * width + x / zoom] / most;
                let grey = match scale {
                    Scale::Positive => value.max(0.0) * 255.0,
                    Scale::Signed => 127.5 + value * 127.5,
                };
                pixels[(top + y) * size[0] + left + x] = grey as u8;
            }
        }
    }
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), size[0] as u32, size[1] as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(())
}

/// Draws losses, step by step, as means of a hundredth of the steps each.
pub(crate) fn curves(path: &Path, series: &[(&str, &[f32])]) -> Result<(), Box<dyn Error>> {
    const COLOURS: [&str; 2] = ["#1f6feb", "#d1242f"];
    let smooth = |losses: &[f32]| -> Vec<f32> {
        losses
            .chunks(losses.len().div_ceil(100))
            .map(|part| part.iter().sum::<f32>() / part.len() as f32)
            .collect()
    };
    let lines: Vec<Vec<f32>> = series.iter().map(|(_, losses)| smooth(losses)).collect();
    let most = lines.iter().flatten().fold(0.1f32, |most, &x| most.max(x));
    let mut svg = String::from(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 640 400' font-family='sans-serif' font-size='13'>\
         <rect width='640' height='400' fill='white'/><path d='M50 20V360H620' fill='none' stroke='#888'/>",
    );
    for tick in 0..=4 {
        let value = most * tick as f32 / 4.0;
        let y = 360.0 - 340.0 * tick as f32 / 4.0;
        write!(svg, "<text x='44' y='{}' text-anchor='end'>{value:.2}</text>", y + 4.0)?;
    }
    let steps = series.iter().map(|(_, losses)| losses.len()).max().unwrap_or(0);
    write!(
        svg,
        "<text x='620' y='380' text-anchor='end'>{steps} steps</text><text x='60' y='380'>loss</text>"
    )?;
    for (i, ((name, _), line)) in series.iter().zip(&lines).enumerate() {
        let points: Vec<String> = line
            .iter()
            .enumerate()
            .map(|(x, y)| format!("{:.1},{:.1}", 50.0 + 5.7 * x as f32, 360.0 - 340.0 * y / most))
            .collect();
        let colour = COLOURS[i % COLOURS.len()];
        write!(
            svg,
            "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='2'/>",
            points.join(" ")
        )?;
        write!(svg, "<text x='540' y='{}' fill='{colour}'>{name}</text>", 40 + 18 * i)?;
    }
    svg.push_str("</svg>\n");
    Ok(fs::write(path, svg)?)
}
