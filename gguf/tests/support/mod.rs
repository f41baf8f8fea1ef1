//! A writer of GGUF files for tests, from the format's description; also used by other crates' tests.
#![allow(dead_code)]

/// A value of the metadata.
#[derive(Clone, Debug)]
pub enum Value {
    U8(u8),
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Floats(Vec<f32>),
    Integers(Vec<i32>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

/// A file to be written.
#[derive(Clone, Debug, Default)]
pub struct Gguf {
    pub metadata: Vec<(String, Value)>,
    /// Name, dimensions with the slowest first, number of the format, bytes.
    pub tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

impl Gguf {
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        self.metadata.retain(|(other, _)| other != key);
        self.metadata.push((key.to_owned(), value));
    }

    pub fn tensor(&mut self, name: &str, shape: &[usize], format: u32, bytes: Vec<u8>) {
        let shape = shape.iter().map(|&size| size as u64).collect();
        self.tensors.push((name.to_owned(), shape, format, bytes));
    }

    pub fn tensor_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.tensor(name, shape, 0, values.iter().flat_map(|value| value.to_le_bytes()).collect());
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut out, key);
            write_value(&mut out, value);
        }
        let mut offset = 0u64;
        for (name, shape, format, bytes) in &self.tensors {
            text(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(format.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += (bytes.len() as u64).next_multiple_of(32);
        }
        for (_, _, _, bytes) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(bytes);
        }
        out
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    let mut kind = |number: u32| out.extend(number.to_le_bytes());
    match value {
        Value::U8(value) => {
            kind(0);
            out.push(*value);
        }
        Value::U32(value) => {
            kind(4);
            out.extend(value.to_le_bytes());
        }
        Value::I32(value) => {
            kind(5);
            out.extend(value.to_le_bytes());
        }
        Value::F32(value) => {
            kind(6);
            out.extend(value.to_le_bytes());
        }
        Value::Bool(value) => {
            kind(7);
            out.push(u8::from(*value));
        }
        Value::Text(value) => {
            kind(8);
            text(out, value);
        }
        Value::U64(value) => {
            kind(10);
            out.extend(value.to_le_bytes());
        }
        Value::Texts(values) => {
            kind(9);
            kind(8);
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| text(out, value));
        }
        Value::Floats(values) => {
            kind(9);
            kind(6);
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Value::Integers(values) => {
            kind(9);
            kind(5);
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
    }
}
