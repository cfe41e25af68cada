//! Which sections a configuration type has, and which variable of the environment means which key.

use serde::de::{self, DeserializeOwned, Visitor};
use serde::forward_to_deserialize_any;

use super::ENV_PREFIX;

/// The names of `T`'s fields. `T` says them itself, when it asks to be read as a struct.
pub(super) fn of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // It always ends in an error: there is nothing to read.
    let _ = T::deserialize(Ask { fields: &mut fields });
    fields
}

/// The dotted key that a variable sets; `None`: it is none of ours, or of a section that `T` does not have.
pub(super) fn key_of(variable: &str, sections: &[&str]) -> Option<String> {
    let rest = variable.strip_prefix(ENV_PREFIX)?.to_ascii_lowercase();
    let matching = sections.iter().filter_map(|section| {
        let key = rest.strip_prefix(section)?.strip_prefix('_')?;
        (!key.is_empty()).then_some((section, key))
    });
    matching.max_by_key(|(section, _)| section.len()).map(|(section, key)| format!("{section}.{key}"))
}

struct Ask<'a> {
    fields: &'a mut &'static [&'static str],
}

impl<'de> de::Deserializer<'de> for Ask<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("nothing to read"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.fields = fields;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
