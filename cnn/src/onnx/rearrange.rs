//! Operators that put elements elsewhere: cut, join, turn, pad and repeat.

use super::attributes::{int, ints};
use super::rules::broadcast;
use super::value::{Axis, MOST_NUMBERS, Numbers, Op, Stop, Value, axis, product};
use super::window::{TOO_LARGE, numbers};

pub(super) fn concat(op: &Op) -> Result<Value, Stop> {
    let values = op.values()?;
    let first = values.first().ok_or("it has no inputs")?;
    let along = op.axis(1, first.shape.len())?;
    let mut shape = first.shape.clone();
    shape[along] = Some(0);
    for value in &values {
        if value.shape.len() != shape.len() {
            return Err("its inputs differ in their numbers of axes".into());
        }
        for (i, (sum, &more)) in shape.iter_mut().zip(&value.shape).enumerate() {
            match (*sum, more) {
                (Some(a), Some(b)) if i == along => *sum = Some(a.checked_add(b).ok_or(TOO_LARGE)?),
                _ if i == along => *sum = None,
                (Some(a), Some(b)) if a != b => {
                    return Err(
                        format!("its inputs have {a} and {b} on axis {i}, but join on axis {along}").into()
                    );
                }
                (a, b) => *sum = a.or(b),
            }
        }
    }
    let lists = values.iter().map(|value| value.ints().filter(|_| value.shape.len() == 1));
    let joined: Option<Vec<&[i64]>> = lists.collect();
    let joined = joined.filter(|lists| lists.iter().map(|list| list.len()).sum::<usize>() <= MOST_NUMBERS);
    Ok(Value { shape, numbers: joined.map(|lists| Numbers::Ints(lists.concat())) })
}

pub(super) fn split(op: &Op) -> Result<Vec<Value>, Stop> {
    let input = &op.value(0)?.shape;
    let along = op.axis(0, input.len())?;
    let parts = int(op.node, "num_outputs").map_or(op.node.output.len(), |n| usize::try_from(n).unwrap_or(0));
    if parts == 0 || parts > op.node.output.len() {
        return Err("it has no outputs, or fewer than parts".into());
    }
    let sizes: Vec<Axis> = match op.ints_of("split", 1)? {
        Some(sizes) => numbers("split", sizes, sizes.len(), 0)?.into_iter().map(Some).collect(),
        None => {
            let part = input[along].map(|size| size.div_ceil(parts));
            let rest = |i: usize| Some(input[along]?.saturating_sub(part?.saturating_mul(i)).min(part?));
            (0..parts).map(rest).collect()
        }
    };
    let with_size = |size: Axis| {
        let mut shape = input.clone();
        shape[along] = size;
        Value::of_shape(shape)
    };
    Ok(sizes.into_iter().take(op.node.output.len()).map(with_size).collect())
}

pub(super) fn slice(op: &Op) -> Result<Value, Stop> {
    let input = op.value(0)?;
    let (Some(starts), Some(ends)) = (op.ints_of("starts", 1)?, op.ints_of("ends", 2)?) else {
        return Err("it has no bounds".into());
    };
    let all: Vec<i64> = (0..starts.len() as i64).collect();
    let axes = op.ints_of("axes", 3)?.unwrap_or(&all);
    let ones = vec![1; starts.len()];
    let steps = op.ints_of("steps", 4)?.unwrap_or(&ones);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err("its bounds differ in their numbers of axes".into());
    }
    let mut value = Value::of_shape(input.shape.clone());
    for (((&start, &end), &n), &step) in starts.iter().zip(ends).zip(axes).zip(steps) {
        let along = axis(n, input.shape.len())?;
        let Some(size) = input.shape[along] else { continue };
        let places = places(start, end, step, size).ok_or("its step is 0, or its input too large")?;
        value.shape[along] = Some(places.count);
        if input.shape.len() == 1 {
            value.numbers = input.ints().map(|list| {
                let place = |i: usize| places.first + i as i64 * step;
                let elements = (0..places.count).filter_map(|i| list.get(usize::try_from(place(i)).ok()?));
                Numbers::Ints(elements.copied().collect())
            });
        }
    }
    Ok(value)
}

/// Places that a slice takes.
struct Places {
    first: i64,
    count: usize,
}

fn places(start: i64, end: i64, step: i64, size: usize) -> Option<Places> {
    let size = i64::try_from(size).ok()?;
    let from_end = |n: i64| if n < 0 { n.saturating_add(size) } else { n };
    let (start, end) = match step {
        0 => return None,
        _ if size == 0 => (0, 0),
        1.. => (from_end(start).clamp(0, size), from_end(end).clamp(0, size)),
        _ => (from_end(start).clamp(0, size - 1), from_end(end).clamp(-1, size - 1)),
    };
    let span = if step > 0 { end - start } else { start - end };
    let count = (span.max(0) as u64).div_ceil(step.unsigned_abs());
    Some(Places { first: start, count: count as usize })
}

pub(super) fn gather(op: &Op) -> Result<Value, Stop> {
    let (input, indices) = (op.value(0)?, op.value(1)?);
    let along = op.axis(0, input.shape.len())?;
    let shape = [&input.shape[..along], &indices.shape, &input.shape[along + 1..]].concat();
    let chosen = |list: &[i64], places: &[i64]| -> Option<Vec<i64>> {
        places.iter().map(|&place| list.get(axis(place, list.len()).ok()?).copied()).collect()
    };
    let numbers = match (input.ints(), indices.ints()) {
        (Some(list), Some(places)) if input.shape.len() == 1 => chosen(list, places).map(Numbers::Ints),
        _ => None,
    };
    Ok(Value { shape, numbers })
}

pub(super) fn flatten(op: &Op) -> Result<Value, Stop> {
    let input = &op.value(0)?.shape;
    let at = match int(op.node, "axis").unwrap_or(1) {
        n if n == input.len() as i64 => input.len(),
        n => axis(n, input.len())?,
    };
    let (before, after) = input.split_at(at);
    Ok(Value::of_shape(vec![product(before), product(after)]))
}

pub(super) fn reshape(op: &Op) -> Result<Value, Stop> {
    let input = op.value(0)?;
    let target = op.ints_of("shape", 1)?.ok_or("it has no shape")?;
    let keeps_zeros = int(op.node, "allowzero") == Some(1);
    let mut shape: Vec<Axis> = Vec::new();
    let mut open = None;
    for (i, &n) in target.iter().enumerate() {
        shape.push(match n {
            0 if !keeps_zeros => {
                *input.shape.get(i).ok_or("it copies an axis that its input does not have")?
            }
            -1 if open.is_none() => {
                open = Some(i);
                Some(1)
            }
            n => Some(usize::try_from(n).map_err(|_| format!("its shape has {n}"))?),
        });
    }
    let (whole, rest) = (input.count(), product(&shape));
    if let Some(open) = open {
        shape[open] = match (whole, rest) {
            (Some(whole), Some(rest)) if rest > 0 && whole % rest == 0 => Some(whole / rest),
            (Some(_), Some(_)) => return Err("its shape does not fit its input".into()),
            _ => None,
        };
    } else if let (Some(whole), Some(rest)) = (whole, rest)
        && whole != rest
    {
        return Err(format!("its shape has {rest} elements, but its input {whole}").into());
    }
    Ok(Value { shape, numbers: input.numbers.clone() })
}

pub(super) fn squeeze(op: &Op) -> Result<Value, Stop> {
    let input = op.value(0)?;
    let mut gone: Vec<bool> = input.shape.iter().map(|&n| n == Some(1)).collect();
    if let Some(axes) = op.ints_of("axes", 1)? {
        gone.fill(false);
        for &n in axes {
            gone[axis(n, input.shape.len())?] = true;
        }
    }
    let left = input.shape.iter().zip(&gone).filter(|(_, gone)| !**gone).map(|(&n, _)| n);
    Ok(Value { shape: left.collect(), numbers: input.numbers.clone() })
}

pub(super) fn unsqueeze(op: &Op) -> Result<Value, Stop> {
    let input = op.value(0)?;
    let axes = op.ints_of("axes", 1)?.ok_or("it has no axes")?;
    let mut shape = vec![None; input.shape.len() + axes.len()];
    for &n in axes {
        let place = axis(n, shape.len())?;
        if shape[place].replace(1).is_some() {
            return Err(format!("it inserts axis {n} twice").into());
        }
    }
    let mut old = input.shape.iter();
    for place in &mut shape {
        *place = match place {
            Some(_) => *place,
            None => old.next().copied().flatten(),
        };
    }
    Ok(Value { shape, numbers: input.numbers.clone() })
}

pub(super) fn transpose(op: &Op) -> Result<Value, Stop> {
    let input = &op.value(0)?.shape;
    let shape = match ints(op.node, "perm") {
        None => input.iter().rev().copied().collect(),
        Some(order) => {
            let mut order: Vec<usize> =
                order.iter().map(|&n| axis(n, input.len())).collect::<Result<_, _>>()?;
            let shape = order.iter().map(|&n| input[n]).collect();
            order.sort_unstable();
            if !order.into_iter().eq(0..input.len()) {
                return Err("its perm is no permutation of its input's axes".into());
            }
            shape
        }
    };
    Ok(Value::of_shape(shape))
}

pub(super) fn pad(op: &Op) -> Result<Value, Stop> {
    let mut shape = op.value(0)?.shape.clone();
    let old_name = if ints(op.node, "paddings").is_some() { "paddings" } else { "pads" };
    let pads = op.ints_of(old_name, 1)?.ok_or("it has no pads")?;
    let all: Vec<i64> = (0..shape.len() as i64).collect();
    let axes = match op.optional(3)? {
        Some(_) => op.constant(3)?,
        None => &all,
    };
    if pads.len() != 2 * axes.len() {
        return Err(format!("its pads are {} numbers for {} axes", pads.len(), axes.len()).into());
    }
    let (before, after) = pads.split_at(axes.len());
    for ((&n, &before), &after) in axes.iter().zip(before).zip(after) {
        let along = axis(n, shape.len())?;
        if let Some(size) = shape[along] {
            let padded = i64::try_from(size).ok().and_then(|n| n.checked_add(before)?.checked_add(after));
            shape[along] = Some(padded.and_then(|n| usize::try_from(n).ok()).ok_or(TOO_LARGE)?);
        }
    }
    Ok(Value::of_shape(shape))
}

pub(super) fn expand(op: &Op) -> Result<Value, Stop> {
    let target = op.constant(1)?;
    let target: Vec<Axis> = numbers("shape", target, target.len(), 0)?.into_iter().map(Some).collect();
    Ok(Value::of_shape(broadcast(&op.value(0)?.shape, &target)?))
}

pub(super) fn tile(op: &Op) -> Result<Value, Stop> {
    let input = &op.value(0)?.shape;
    let repeats = numbers("repeats", op.constant(1)?, input.len(), 0)?;
    let axes = input.iter().zip(repeats).map(|(axis, n)| match axis {
        Some(size) => size.checked_mul(n).map(Some).ok_or(TOO_LARGE),
        None => Ok(None),
    });
    Ok(Value::of_shape(axes.collect::<Result<_, _>>()?))
}

/// A shape N×C×H×W, and the node's block.
fn blocks<'a>(op: &Op<'a>) -> Result<(&'a [Axis; 4], usize), Stop> {
    let shape = op.value(0)?.shape.as_slice().try_into().map_err(|_| "its input does not have 4 axes")?;
    let block = int(op.node, "blocksize").unwrap_or(0);
    Ok((shape, numbers("blocksize", &[block], 1, 1)?[0]))
}

pub(super) fn depth_to_space(op: &Op) -> Result<Value, Stop> {
    let (&[batch, channels, height, width], block) = blocks(op)?;
    let wider = |axis: Axis| axis.map(|n| n.checked_mul(block).ok_or(TOO_LARGE)).transpose();
    Ok(Value::of_shape(vec![batch, channels.map(|n| n / block / block), wider(height)?, wider(width)?]))
}

pub(super) fn space_to_depth(op: &Op) -> Result<Value, Stop> {
    let (&[batch, channels, height, width], block) = blocks(op)?;
    let deeper = |n: usize| n.checked_mul(block).and_then(|n| n.checked_mul(block)).ok_or(TOO_LARGE);
    let narrower = |axis: Axis| axis.map(|n| n / block);
    Ok(Value::of_shape(vec![batch, channels.map(deeper).transpose()?, narrower(height), narrower(width)]))
}
