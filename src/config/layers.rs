//! Several TOML texts, one over the other, and for each value the text that it came from.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Error, explain, position, within};

/// Where a layer came from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// The file.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
    /// A flag; the dotted key that it sets.
    Flag(String),
}

struct Layer {
    origin: Origin,
    /// The dotted key; of the file's layer it is not used.
    key: String,
    /// As it was given: the whole file, or one value.
    given: String,
    /// Whether the value is to be taken as a string, whatever it looks like.
    as_string: bool,
}

/// The file's text first, then the others in the order in which they win.
pub(super) struct Layers(Vec<Layer>);

impl Layers {
    pub(super) fn new(path: &Path, text: String) -> Layers {
        Layers(vec![Layer {
            origin: Origin::File(path.into()),
            key: String::new(),
            given: text,
            as_string: false,
        }])
    }

    /// Adds one value. It is taken as a string when it is not TOML.
    pub(super) fn push(&mut self, origin: Origin, key: &str, value: String) -> Result<(), Error> {
        let layer =
            Layer { origin, key: key.to_owned(), as_string: DeValue::parse(&value).is_err(), given: value };
        if let Err(error) = DeTable::parse(&layer.text()) {
            return Err(layer.error(error.message().trim_end().to_owned(), 0, None));
        }
        self.0.push(layer);
        Ok(())
    }

    /// Reads the whole as a `T`.
    pub(super) fn read<T: DeserializeOwned>(mut self) -> Result<T, Error> {
        let mut first: Option<(usize, Error)> = None;
        loop {
            let (at, error) = match self.attempt::<T>() {
                Ok(read) => return Ok(read),
                Err(fault) => fault,
            };
            match first {
                // Taken as a string it is as wrong as before: the first fault says more.
                Some((tried, first)) if tried == at => return Err(first),
                _ => {}
            }
            match self.0.get_mut(at) {
                Some(layer) if matches!(layer.origin, Origin::Variable(_)) && !layer.as_string => {
                    layer.as_string = true;
                    first = Some((at, error));
                }
                _ => return Err(error),
            }
        }
    }

    /// The fault comes with the number of the layer that it is in.
    fn attempt<T: DeserializeOwned>(&self) -> Result<T, (usize, Error)> {
        let (texts, starts) = self.texts();
        let mut root: Option<Spanned<DeTable<'_>>> = None;
        for (at, text) in texts.iter().enumerate() {
            let parsed = DeTable::parse(text).map_err(|e| (at, self.fault(&e, &starts, None)))?;
            match &mut root {
                None => root = Some(parsed),
                Some(root) => lay_over(root.get_mut(), parsed.into_inner()),
            }
        }
        let root = root.unwrap_or_else(|| Spanned::new(0..0, DeTable::new()));
        T::deserialize(toml::Deserializer::from(root.clone())).map_err(|e| {
            let at = e.span().map_or(0, |span| within(&span, &starts));
            (at, self.fault(&e, &starts, Some(root.get_ref())))
        })
    }

    /// Each layer's text with as many line ends before it as there are bytes in the layers below.
    fn texts(&self) -> (Vec<String>, Vec<usize>) {
        let (mut texts, mut starts, mut start) = (Vec::new(), Vec::new(), 0);
        for layer in &self.0 {
            let text = layer.text();
            starts.push(start);
            texts.push(format!("{}{text}", "\n".repeat(start)));
            start += text.len() + 1;
        }
        (texts, starts)
    }

    fn fault(&self, error: &toml::de::Error, starts: &[usize], root: Option<&DeTable<'_>>) -> Error {
        let span = error.span().unwrap_or(0..0);
        let at = within(&span, starts);
        let key = root.and_then(|root| key_at(root, &span));
        let why = match root {
            None => {
                let message = error.message().trim_end().replace('\n', ", ");
                if message == "duplicate key" { format!("{message}; keep one of the two") } else { message }
            }
            Some(_) => explain(error.message(), key.as_deref()),
        };
        match (self.0.get(at), starts.get(at)) {
            (Some(layer), Some(start)) => layer.error(why, span.start - start, key),
            _ => Error::Flag { key: String::new(), why },
        }
    }
}

impl Layer {
    fn text(&self) -> String {
        match self.origin {
            Origin::File(_) => self.given.clone(),
            _ if self.as_string => format!("{} = {}", self.key, toml::Value::String(self.given.clone())),
            _ => format!("{} = {}", self.key, self.given),
        }
    }

    fn error(&self, why: String, at: usize, key: Option<String>) -> Error {
        match &self.origin {
            Origin::File(path) => {
                let (line, column) = position(&self.given, at);
                Error::File { path: path.clone(), line, column, key, why }
            }
            Origin::Variable(variable) => Error::Variable { variable: variable.clone(), why },
            Origin::Flag(key) => Error::Flag { key: key.clone(), why },
        }
    }
}

/// Tables are joined key by key; anything else is replaced.
fn lay_over<'a>(under: &mut DeTable<'a>, over: DeTable<'a>) {
    for (key, value) in over {
        match under.remove_entry(key.get_ref().as_ref()) {
            Some((old_key, mut old)) if old.get_ref().is_table() && value.get_ref().is_table() => {
                if let (DeValue::Table(old), DeValue::Table(new)) = (old.get_mut(), value.into_inner()) {
                    lay_over(old, new);
                }
                under.insert(old_key, old);
            }
            _ => {
                under.insert(key, value);
            }
        }
    }
}

/// The dotted key whose name or value lies at the span; the longest one.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    let covers = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end && !span.is_empty();
    for (key, value) in table {
        let name = key.get_ref();
        if let Some(inner) = key_in(value, span) {
            return Some(format!("{name}{inner}"));
        }
        if covers(key.span()) || covers(value.span()) {
            return Some(name.to_string());
        }
    }
    None
}

/// What follows the name of a value: `.key`, `[2].key`.
fn key_in(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<String> {
    match value.get_ref() {
        DeValue::Table(table) => key_at(table, span).map(|key| format!(".{key}")),
        DeValue::Array(items) => items.iter().enumerate().find_map(|(n, item)| {
            let covers = item.span().start <= span.start && span.end <= item.span().end;
            match key_in(item, span) {
                Some(inner) => Some(format!("[{n}]{inner}")),
                None => (covers && !span.is_empty()).then(|| format!("[{n}]")),
            }
        }),
        _ => None,
    }
}
