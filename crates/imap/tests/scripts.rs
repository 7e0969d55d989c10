//! Dialogues as text: every file of `scripts/` is played against a session and a mail store in memory, and what the server says
//! must be what the file says. `PARLIAMENT_SCRIPTS=rewrite` writes what was said into the files, to be read as a change of code.
//!
//! Lines: `#` comment; `C:` a line of the client, line end added; `S:` a line of the server; `!` something else that happens.

// The lint knows test functions only, not the helpers that they share.
#![allow(clippy::unwrap_used)]

mod fake;
mod player;

use player::Player;
use std::path::Path;

#[test]
fn dialogues_go_as_written() {
    let rewrite = std::env::var("PARLIAMENT_SCRIPTS").is_ok_and(|value| value == "rewrite");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "scripts are missing");
    let mut wrong = Vec::new();
    for file in files {
        let written = std::fs::read_to_string(&file).unwrap();
        let played = Player::play(&written);
        if rewrite {
            std::fs::write(&file, &played).unwrap();
        } else if played != written {
            let at = written.lines().zip(played.lines()).position(|(a, b)| a != b).unwrap_or(0);
            let show = |text: &str| text.lines().skip(at.saturating_sub(3)).take(8).collect::<Vec<_>>().join("\n");
            wrong.push(format!("{} line {}:\n--- written\n{}\n--- played\n{}", file.display(), at + 1, show(&written), show(&played)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The same dialogues, each byte of the client on its own: nothing may depend on how the network cuts the stream.
#[test]
fn dialogues_do_not_depend_on_cuts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let written = std::fs::read_to_string(&file).unwrap();
        if !written.contains("! together") {
            assert_eq!(Player::play_bytewise(&written), written, "{}", file.display());
        }
    }
}
