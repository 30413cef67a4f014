//! Bare rows as comma-separated values: a column for each field, the run's included.

use std::fmt;

use csv::Writer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::record::Record;
use crate::report::results::Results;

/// The fields of an object in their order.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The names and values of what a thing is written with.
fn fields(of: &impl Serialize, prefix: &str) -> Result<Vec<(String, String)>, serde_json::Error> {
    let Fields(fields) = serde_json::from_str(&serde_json::to_string(of)?)?;
    Ok(fields.into_iter().map(|(name, value)| (format!("{prefix}{name}"), text(&value))).collect())
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(" "),
        value => value.to_string(),
    }
}

/// A row's fields, then its run's, whose names begin with `run_`.
fn flat(row: &Record) -> Result<Vec<(String, String)>, serde_json::Error> {
    let mut all = fields(&Record { run: None, ..row.clone() }, "")?;
    all.retain(|(name, _)| name != "run");
    if let Some(run) = &row.run {
        all.extend(fields(run.as_ref(), "run_")?);
    }
    Ok(all)
}

/// All rows, each behind the name of its file.
///
/// # Errors
/// When a row cannot be written as text; none is known.
pub fn table(results: &Results) -> Result<Vec<u8>, String> {
    let rows: Vec<(&str, Vec<(String, String)>)> = results
        .rows()
        .map(|(origin, row)| Ok((results.origins[origin].name.as_str(), flat(row)?)))
        .collect::<Result<_, serde_json::Error>>()
        .map_err(|error| error.to_string())?;
    // Rows without a run have fewer fields.
    let longest = rows.iter().map(|(_, fields)| fields).max_by_key(|fields| fields.len());
    let names: Vec<&str> = longest.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let mut writer = Writer::from_writer(Vec::new());
    let mut write = || {
        writer.write_record(std::iter::once("file").chain(names.iter().copied()))?;
        for (file, fields) in &rows {
            let values = names
                .iter()
                .enumerate()
                .map(|(column, _)| fields.get(column).map_or("", |(_, value)| value.as_str()));
            writer.write_record(std::iter::once(*file).chain(values))?;
        }
        Ok::<(), csv::Error>(())
    };
    write().map_err(|error| error.to_string())?;
    writer.into_inner().map_err(|error| error.to_string())
}
