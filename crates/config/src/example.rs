//! Text made from the table of settings: the commented file, and what `config explain` says.

use crate::table::{self, Default, SETTINGS, Setting};
use std::fmt::Write as _;

/// Longest line of comments, characters.
const WIDTH: usize = 100;

/// A commented configuration with every setting. Those of `set` (key and value in TOML) stand as given, all others commented
/// out with their defaults. Keys that are no settings are passed over.
#[must_use]
pub fn example(set: &[(&str, String)]) -> String {
    let mut out = String::from(
        "# Parliament: settings of a node. The same file may serve every node: ${VAR} takes the environment's value.\n\
         # Commented settings show their defaults. Every setting may also be given by the variable PARLIAMENT_SECTION__KEY,\n\
         # or by the content of the file that PARLIAMENT_SECTION__KEY_FILE names.\n\
         # `parliament config check` reads this file; `parliament config explain KEY` tells of one setting.\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        if setting.section() != section {
            section = setting.section();
            let _ = write!(out, "\n[{section}]\n");
        }
        for line in wrapped(setting.doc) {
            let _ = writeln!(out, "# {line}");
        }
        if let Default::Derived { how, .. } = setting.default {
            let _ = writeln!(out, "# Default: {how}.");
        }
        let given = set.iter().find(|(key, _)| *key == setting.key);
        let _ = match given {
            Some((_, value)) => writeln!(out, "{} = {value}", setting.name()),
            None => writeln!(out, "#{} = {}", setting.name(), example_value(setting)),
        };
    }
    out
}

fn example_value(setting: &Setting) -> &'static str {
    match setting.default {
        Default::Is(text) | Default::Derived { example: text, .. } | Default::Unset { example: text } => text,
    }
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let full = lines.last().is_some_and(|line| !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH);
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// What `config explain KEY` prints: for a setting its meaning, kind, default and variable; for a section its settings; for
/// an empty key all of them. `None` when there is no such key.
#[must_use]
pub fn explain(key: &str) -> Option<String> {
    if let Some(setting) = table::find(key) {
        let default = setting.default_text();
        let doc = wrapped(setting.doc).join("\n");
        let (kind, variable) = (setting.kind.wanted(), setting.variable());
        return Some(format!("{key}\n{doc}\n\n  takes        {kind}\n  default      {default}\n  environment  {variable}\n"));
    }
    let inside = |s: &&Setting| key.is_empty() || s.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
    let width = SETTINGS.iter().map(|s| s.key.len()).max().unwrap_or_default();
    let lines: Vec<_> = SETTINGS.iter().filter(inside).map(|s| format!("{:width$}  {}\n", s.key, first_sentence(s.doc))).collect();
    (!lines.is_empty()).then(|| lines.concat())
}

fn first_sentence(doc: &str) -> &str {
    doc.split_once(". ").map_or(doc, |(first, _)| first).trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Sources, load};

    #[test]
    fn the_example_in_deploy_is_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/example.toml");
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(path, example(&[])).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), example(&[]), "REWRITE=1 cargo test -p parliament-config writes it anew");
    }

    #[test]
    fn the_example_uncommented_is_a_valid_configuration() {
        let text = example(&[]);
        let bare = |line: &str| line.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(line).to_owned() + "\n";
        let uncommented = text.lines().map(bare);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.toml");
        std::fs::write(&file, uncommented.collect::<String>()).unwrap();
        let loaded = load(&Sources { file: Some(file), ..Sources::default() }).unwrap();
        assert!(loaded.values.iter().all(|v| v.origin != crate::Origin::Default));
    }

    #[test]
    fn given_settings_stand_uncommented() {
        let text = example(&[("node.zone", "\"east\"".into()), ("imap.listen", "[]".into())]);
        assert!(text.contains("\nzone = \"east\"\n") && text.contains("\nlisten = []\n") && text.contains("\n#replication = 3\n"));
    }

    #[test]
    fn comments_fit_a_line() {
        assert!(example(&[]).lines().all(|l| l.chars().count() <= 125));
    }

    #[test]
    fn explain_tells_of_settings_and_sections() {
        let one = explain("cluster.groups").unwrap();
        assert!(one.contains("a whole number from 1 to 1024") && one.contains("PARLIAMENT_CLUSTER__GROUPS") && one.contains("64"));
        assert_eq!(explain("tls.mail").unwrap().lines().count(), 2);
        assert_eq!(explain("").unwrap().lines().count(), SETTINGS.len());
        assert_eq!(explain("nothing"), None);
    }
}
