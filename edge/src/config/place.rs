//! Where the value stands that goes not together with others: the line of the file, or the variable that is laid over it.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use trishula::config::{ENV_PREFIX, Error};

use super::old_env;

/// Other names of keys.
const ALIASES: [(&str, &str); 5] = [
    ("max_frame", "max_message_size"),
    ("tls", "tls_enabled"),
    ("cert", "cert_file"),
    ("key", "key_file"),
    ("auth", "require_auth"),
];

/// The error for this key, which is `section.key`, `service NAME: key` or `rule FROM to TO`.
pub(super) fn fault(
    path: &Path,
    environment: &BTreeMap<String, String>,
    (key, why): (String, String),
) -> Error {
    if let Some(variable) = variable(environment, &key) {
        return Error::Variable { variable, why: format!("{key}: {why}") };
    }
    let text = std::fs::read_to_string(path).unwrap_or_default();
    match find(&text, &key) {
        Some(at) => {
            let before = text.get(..at).unwrap_or_default();
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let line = before.matches('\n').count() + 1;
            let column = before[line_start..].chars().count() + 1;
            Error::File { path: path.into(), line, column, why: format!("{key}: {why}"), key: Some(key) }
        }
        None => Error::Together { path: path.into(), key, why },
    }
}

/// The variable that has the value, if not the file.
fn variable(environment: &BTreeMap<String, String>, key: &str) -> Option<String> {
    let name = match split(key) {
        Some((service, key)) => old_env::laid_over(environment, service, key)?,
        None => format!("{ENV_PREFIX}{}", key.to_ascii_uppercase().replace('.', "_")),
    };
    environment.contains_key(&name).then_some(name)
}

/// A service as its faults name it, and the key.
fn split(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix("service ")?.split_once(": ")
}

/// The byte where the key stands, or else that of what should have it.
fn find(text: &str, key: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let root = root.get_ref();
    if let Some((called, key)) = split(key) {
        let service = item(root, "service", |place, service| {
            let name = string(service, "name").or_else(|| string(service, "preset"));
            name == Some(called) || called == format!("[{place}]")
        })?;
        return within(service.get_ref().as_table()?, key).or(Some(service.span().start));
    }
    if let Some((from, to)) = key.strip_prefix("rule ").and_then(|rule| rule.split_once(" to ")) {
        let is_it =
            |_, rule: &DeTable<'_>| string(rule, "from") == Some(from) && string(rule, "to") == Some(to);
        return Some(item(root, "rule", is_it)?.span().start);
    }
    within(root, key)
}

/// The last one of an array of tables: of two with one name, it is the one too many.
fn item<'a, 'text>(
    root: &'a DeTable<'text>,
    array: &str,
    is_it: impl Fn(usize, &DeTable<'text>) -> bool,
) -> Option<&'a Spanned<DeValue<'text>>> {
    let (_, items) = entry(root, array)?;
    let mut items = items.get_ref().as_array()?.iter().enumerate().rev();
    items.find_map(|(place, item)| is_it(place, item.get_ref().as_table()?).then_some(item))
}

fn entry<'a, 'text>(
    table: &'a DeTable<'text>,
    key: &str,
) -> Option<(&'a Spanned<std::borrow::Cow<'text, str>>, &'a Spanned<DeValue<'text>>)> {
    let other = ALIASES.iter().find(|(ours, _)| *ours == key).map(|(_, other)| *other);
    let known = [Some(key), other, key.strip_suffix("_s")];
    table.iter().find(|(name, _)| known.contains(&Some(name.get_ref().as_ref())))
}

fn string<'a>(table: &'a DeTable<'_>, key: &str) -> Option<&'a str> {
    entry(table, key)?.1.get_ref().as_str()
}

/// As far along the dotted key as there is anything.
fn within(table: &DeTable<'_>, key: &str) -> Option<usize> {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let (name, value) = entry(table, first)?;
    let deeper = rest.and_then(|rest| within(value.get_ref().as_table()?, rest));
    Some(deeper.unwrap_or(name.span().start))
}
