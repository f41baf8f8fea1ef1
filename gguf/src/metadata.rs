//! The metadata: which keys there are, and reading their values with the type that the reader needs.
//! Values stay in the file until they are asked for, so that a hostile one takes no memory.

use crate::cursor::Cursor;
use std::collections::BTreeMap;

/// The most bytes of a key, as the format has it.
const LONGEST_KEY: usize = 65535;

/// A type of value, with the number by which the format names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

/// In the order of their numbers.
const KINDS: [Kind; 13] = [
    Kind::U8,
    Kind::I8,
    Kind::U16,
    Kind::I16,
    Kind::U32,
    Kind::I32,
    Kind::F32,
    Kind::Bool,
    Kind::String,
    Kind::Array,
    Kind::U64,
    Kind::I64,
    Kind::F64,
];

impl Kind {
    fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Kind, String> {
        let number = cursor.u32(&format!("the type of `{key}`"))?;
        KINDS.get(number as usize).copied().ok_or_else(|| {
            format!("`{key}` has the unknown type {number}; types go up to {}", KINDS.len() - 1)
        })
    }

    /// Bytes of a value; 0 for those that say their length themselves.
    fn bytes(self) -> u64 {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
            Kind::String | Kind::Array => 0,
        }
    }
}

/// Where a value lies: its type, and that of its elements and their number if it is an array.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    kind: Kind,
    elements: Option<(Kind, u64)>,
    at: usize,
}

impl Entry {
    /// The types that a value could have been written with, in words.
    fn name(&self) -> String {
        match self.elements {
            Some((kind, count)) => format!("an array of {count} {kind:?}"),
            None => format!("of type {:?}", self.kind),
        }
    }
}

/// The keys of a file, in order.
pub(crate) type Entries = BTreeMap<String, Entry>;

/// Reads `count` keys, and checks that their values lie in the file.
pub(crate) fn read_entries(cursor: &mut Cursor<'_>, count: u64) -> Result<Entries, String> {
    let mut entries = Entries::new();
    for number in 0..count {
        let key = cursor.text(&format!("the key of metadata {number} of {count}"))?;
        if key.len() > LONGEST_KEY {
            return Err(format!("a key of {} bytes; keys have at most {LONGEST_KEY}", key.len()));
        }
        let kind = Kind::read(cursor, key)?;
        let what = format!("the value of `{key}`");
        let entry = match kind {
            Kind::Array => {
                let kind = Kind::read(cursor, key)?;
                let count = cursor.u64(&what)?;
                let at = cursor.at();
                match kind {
                    Kind::Array => {
                        return Err(format!("`{key}` is an array of arrays; only flat ones are supported"));
                    }
                    Kind::String => (0..count).try_for_each(|_| cursor.string(&what).map(|_| ()))?,
                    _ => cursor.skip(count.saturating_mul(kind.bytes()), &what).map(|_| ())?,
                }
                Entry { kind: Kind::Array, elements: Some((kind, count)), at }
            }
            Kind::String => {
                let at = cursor.at();
                cursor.string(&what)?;
                Entry { kind, elements: None, at }
            }
            _ => Entry { kind, elements: None, at: cursor.skip(kind.bytes(), &what)?.start },
        };
        if entries.insert(key.to_owned(), entry).is_some() {
            return Err(format!("the key `{key}` is there twice"));
        }
    }
    Ok(entries)
}

/// Values that metadata are read as.
pub(crate) trait Scalar: Sized {
    /// In words, for errors.
    const NAME: &'static str;

    /// The next value, if one of this kind can be read so.
    fn read(kind: Kind, cursor: &mut Cursor<'_>) -> Result<Option<Self>, String>;
}

impl Scalar for i128 {
    const NAME: &'static str = "an integer";

    fn read(kind: Kind, cursor: &mut Cursor<'_>) -> Result<Option<i128>, String> {
        let what = "an integer";
        Ok(Some(match kind {
            Kind::U8 => u8::from_le_bytes(cursor.array(what)?).into(),
            Kind::I8 => i8::from_le_bytes(cursor.array(what)?).into(),
            Kind::U16 => u16::from_le_bytes(cursor.array(what)?).into(),
            Kind::I16 => i16::from_le_bytes(cursor.array(what)?).into(),
            Kind::U32 => u32::from_le_bytes(cursor.array(what)?).into(),
            Kind::I32 => i32::from_le_bytes(cursor.array(what)?).into(),
            Kind::U64 => u64::from_le_bytes(cursor.array(what)?).into(),
            Kind::I64 => i64::from_le_bytes(cursor.array(what)?).into(),
            _ => return Ok(None),
        }))
    }
}

impl Scalar for f64 {
    const NAME: &'static str = "a floating-point number";

    /// An f32 is read as the shortest decimal that it stands for, so that 1e-5 is 1e-5.
    fn read(kind: Kind, cursor: &mut Cursor<'_>) -> Result<Option<f64>, String> {
        Ok(match kind {
            Kind::F32 => {
                let value = f32::from_le_bytes(cursor.array("a number")?);
                Some(value.to_string().parse().unwrap_or(f64::from(value)))
            }
            Kind::F64 => Some(f64::from_le_bytes(cursor.array("a number")?)),
            _ => None,
        })
    }
}

impl Scalar for bool {
    const NAME: &'static str = "a boolean";

    fn read(kind: Kind, cursor: &mut Cursor<'_>) -> Result<Option<bool>, String> {
        match kind {
            Kind::Bool => Ok(Some(cursor.array::<1>("a boolean")?[0] != 0)),
            _ => Ok(None),
        }
    }
}

impl Scalar for String {
    const NAME: &'static str = "a string";

    fn read(kind: Kind, cursor: &mut Cursor<'_>) -> Result<Option<String>, String> {
        match kind {
            Kind::String => Ok(Some(cursor.text("a string")?.to_owned())),
            _ => Ok(None),
        }
    }
}

/// The value of a key that is no array.
pub(crate) fn scalar<T: Scalar>(bytes: &[u8], key: &str, entry: &Entry) -> Result<T, String> {
    T::read(entry.kind, &mut Cursor::new(bytes, entry.at))
        .map_err(|problem| format!("`{key}`: {problem}"))?
        .ok_or_else(|| format!("`{key}` is {}; it must be {}", entry.name(), T::NAME))
}

/// The elements of a key that is an array.
pub(crate) fn array<T: Scalar>(bytes: &[u8], key: &str, entry: &Entry) -> Result<Vec<T>, String> {
    let wrong = || format!("`{key}` is {}; it must be an array, each element {}", entry.name(), T::NAME);
    let (kind, count) = entry.elements.ok_or_else(wrong)?;
    let mut cursor = Cursor::new(bytes, entry.at);
    (0..count)
        .map(|number| {
            let value = T::read(kind, &mut cursor);
            value.map_err(|problem| format!("`{key}`, element {number}: {problem}"))?.ok_or_else(wrong)
        })
        .collect()
}

/// Whether a key holds an array.
pub(crate) fn is_array(entry: &Entry) -> bool {
    entry.elements.is_some()
}
