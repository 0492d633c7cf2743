//! The resource's definition, as it is committed and installed.

use kube::CustomResourceExt;
use serde_json::Value;

use crate::spec::PeerNetwork;

/// The CustomResourceDefinition, with whole numbers written as such: schema bounds are floating point numbers in the
/// API's types, and `1000.0` reads oddly in YAML.
///
/// # Panics
/// Never: the derived definition is plain data.
pub fn definition() -> Value {
    let mut definition =
        serde_json::to_value(PeerNetwork::crd()).expect("a definition is plain data");
    write_whole_numbers(&mut definition);
    definition
}

fn write_whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(whole) = number
                .as_f64()
                .filter(|f| f.fract() == 0.0 && f.abs() < 1e15)
            {
                *number = (whole as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(write_whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(write_whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}
