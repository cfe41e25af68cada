//! Rust source as the rules see it: comments, the contents of strings and everything under `#[cfg(test)]` are
//! blanks, and every line is where it was.

/// A source file without what does not count.
pub struct Code {
    text: String,
    /// With its strings and comments; every byte is where it is in `text`.
    source: String,
    /// Lines that belong to tests.
    test_lines: usize,
    /// Of each `#[cfg(test)] mod name;`.
    pub test_modules: Vec<TestModule>,
}

/// Where a module of tests lies.
#[derive(Debug)]
pub enum TestModule {
    /// Where Rust looks for a module of this name.
    Usual(String),
    /// By `#[path]`: the file of this name, without its ending, beside the one that declares it.
    Beside(String),
}

impl Code {
    /// Blanks what does not count.
    pub fn read(source: &str) -> Code {
        let mut code = Code {
            text: blank_text(source),
            source: source.chars().map(|c| if c.is_ascii() { c } else { ' ' }).collect(),
            test_lines: 0,
            test_modules: Vec::new(),
        };
        code.blank_tests();
        code
    }

    /// Lines that are not tests'.
    pub fn line_count(&self) -> usize {
        self.text.lines().count() - self.test_lines
    }

    /// The lines on which a word stands by itself.
    pub fn words<'a>(&'a self, word: &str) -> impl Iterator<Item = usize> + use<'a> {
        let hits: Vec<usize> = self
            .text
            .match_indices(word)
            .filter(|(at, word)| {
                let before = self.text[..*at].chars().next_back();
                let after = self.text[at + word.len()..].chars().next();
                let joined = |c: Option<char>| c.is_some_and(is_word);
                !(joined(before) && word.starts_with(is_word) || joined(after) && word.ends_with(is_word))
            })
            .map(|(at, _)| at)
            .collect();
        hits.into_iter().map(|at| self.line_of(at))
    }

    /// Every function with a body: the line it begins on, its name, its length in lines.
    pub fn functions(&self) -> Vec<(usize, String, usize)> {
        let mut found = Vec::new();
        for (at, _) in self.text.match_indices("fn ") {
            if self.text[..at].ends_with(is_word) {
                continue;
            }
            let name: String = self.text[at + 3..].chars().take_while(|c| is_word(*c)).collect();
            let Some(end) = self.end_of_item(at).filter(|end| self.text[..*end].ends_with('}')) else {
                continue;
            };
            let (first, last) = (self.line_of(at), self.line_of(end - 1));
            found.push((first, name, last + 1 - first));
        }
        found
    }

    /// Whether an attribute just above a line allows `expect`.
    pub fn allows_expect_near(&self, line: usize) -> bool {
        let near = self.text.lines().skip(line.saturating_sub(4)).take(4.min(line));
        near.into_iter().any(|text| text.contains("allow(clippy::expect_used"))
    }

    /// Paths that begin at the root of a crate, groups taken apart: `["crate", "wire", "ids"]`. What
    /// begins with `super` is taken from the root when it reaches that far from a file of this path.
    pub fn paths(&self, path: &str) -> Vec<(usize, Vec<String>)> {
        let inside = path.trim_start_matches("edge/").trim_start_matches("src/");
        let is_root = |name: &str| matches!(name, "mod.rs" | "lib.rs" | "main.rs");
        let depth = inside.split('/').filter(|part| !is_root(part)).count();
        let to_root = format!("{}::", vec!["super"; depth.max(1)].join("::"));
        let mut found = Vec::new();
        for start in ["crate::", "trishula::", &to_root] {
            for (at, _) in self.text.match_indices(start) {
                let before = self.text[..at].chars().next_back();
                if before.is_some_and(|c| is_word(c) || c == ':') {
                    continue;
                }
                let root = if start == "trishula::" { "trishula" } else { "crate" };
                self.take_path(at + start.len(), vec![root.to_owned()], &mut found);
            }
        }
        found
    }

    /// Reads a path or a group of them; answers where it ends.
    fn take_path(
        &self,
        mut at: usize,
        mut so_far: Vec<String>,
        found: &mut Vec<(usize, Vec<String>)>,
    ) -> usize {
        let bytes = self.text.as_bytes();
        let skip = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
                at += 1;
            }
            at
        };
        at = skip(at);
        if bytes.get(at) == Some(&b'{') {
            at += 1;
            loop {
                at = skip(self.take_path(at, so_far.clone(), found));
                match bytes.get(at) {
                    Some(b',') => at += 1,
                    Some(b'}') => return at + 1,
                    _ => return at,
                }
            }
        }
        let name: String = self.text[at..].chars().take_while(|c| is_word(*c)).collect();
        let line = self.line_of(at.min(self.text.len() - 1));
        if name.is_empty() {
            found.push((line, so_far));
            return at;
        }
        at += name.len();
        so_far.push(name);
        if self.text[at..].starts_with("::") {
            return self.take_path(at + 2, so_far, found);
        }
        found.push((line, so_far));
        let rest = skip(at);
        if self.text[rest..].starts_with("as ") {
            let alias = skip(rest + 3);
            return alias + self.text[alias..].chars().take_while(|c| is_word(*c)).count();
        }
        at
    }

    fn line_of(&self, at: usize) -> usize {
        self.text[..at].matches('\n').count() + 1
    }

    /// Where the item that begins at `at` ends: behind its `;`, or behind its last brace.
    fn end_of_item(&self, at: usize) -> Option<usize> {
        let (mut braces, mut others) = (0usize, 0usize);
        for (offset, byte) in self.text.bytes().enumerate().skip(at) {
            match byte {
                b'(' | b'[' => others += 1,
                b')' | b']' => others = others.checked_sub(1)?,
                b'{' => braces += 1,
                b'}' => {
                    braces = braces.checked_sub(1)?;
                    if braces == 0 && others == 0 {
                        return Some(offset + 1);
                    }
                }
                b';' if braces == 0 && others == 0 => return Some(offset + 1),
                _ => {}
            }
        }
        None
    }

    /// The file that `#[path = "…"]` of an item names, without its ending.
    fn file_of_module(&self, at: usize, end: usize) -> Option<String> {
        let named = self.source[at..end].split_once("#[path = \"")?.1;
        named.split_once(".rs\"").map(|(name, _)| name.to_owned())
    }

    fn blank_tests(&mut self) {
        const MARKS: [&str; 2] = ["#[cfg(test)]", "#[cfg(all(test"];
        while let Some(at) = MARKS.iter().filter_map(|mark| self.text.find(mark)).min() {
            let attribute = self.text[at..].find(']').map_or(self.text.len(), |length| at + length + 1);
            let end = self.end_of_item(attribute).unwrap_or(self.text.len());
            let item = self.text[at..end].to_owned();
            if let Some(name) = item.strip_suffix(';').and_then(|item| item.rsplit_once("mod ")) {
                let usual = || TestModule::Usual(name.1.trim().to_owned());
                let module = self.file_of_module(at, end).map_or_else(usual, TestModule::Beside);
                self.test_modules.push(module);
            }
            self.test_lines += item.lines().count();
            let blank: String = item.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
            self.text.replace_range(at..end, &blank);
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Blanks comments and the contents of strings and characters.
fn blank_text(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => block_end(&chars, at),
            'r' if !at.checked_sub(1).is_some_and(|b| is_word(chars[b])) => raw_end(&chars, at),
            '"' => quoted_end(&chars, at),
            '\'' => character_end(&chars, at),
            _ => at,
        };
        if end == at {
            out.push(if chars[at].is_ascii() { chars[at] } else { ' ' });
            at += 1;
            continue;
        }
        out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

fn line_end(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |length| at + length)
}

fn block_end(chars: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut i = at;
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

/// The end of `r"…"` or `r#"…"#`; `at` itself when there is none.
fn raw_end(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return at;
    }
    let mut i = at + hashes + 2;
    while i < chars.len() {
        if chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    chars.len()
}

fn quoted_end(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// The end of `'x'` or `'\n'`; `at` itself for a lifetime.
fn character_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => {
            let rest = chars.get(at + 3..).unwrap_or_default();
            rest.iter().position(|c| *c == '\'').map_or(at, |length| at + 3 + length + 1)
        }
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}
