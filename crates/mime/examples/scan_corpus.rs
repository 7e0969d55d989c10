//! Runs everything over a folder of mails and tells the time: `cargo run --release --example scan_corpus -- FOLDER`. Each file
//! named `*.txt` or `*.eml` is one mail; line ends are made CRLF first. Without a folder, a made-up mail is scanned.

use parliament_mime::{
    Needle, SectionKind, Structure, binary, body_structure, envelope, message_subject, preview, section, sent_date, text_contains,
    thread_root,
};
use std::path::Path;
use std::time::{Duration, Instant};

fn collect(folder: &Path, mails: &mut Vec<Vec<u8>>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, mails)?;
        } else if path.extension().is_some_and(|extension| extension == "txt" || extension == "eml") {
            mails.push(with_crlf(&std::fs::read(path)?));
        }
    }
    Ok(())
}

fn with_crlf(mail: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(mail.len() + mail.len() / 40);
    for line in mail.split_inclusive(|&b| b == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                out.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

fn made_up() -> Vec<u8> {
    let line = "All work and no play makes a line of seventy-two characters, give or take.\r\n";
    let part = |kind: &str| format!("--edge\r\nContent-Type: {kind}\r\n\r\n{}", line.repeat(1000));
    let head = "From: a@b\r\nSubject: made up\r\nContent-Type: multipart/mixed; boundary=edge\r\n\r\n";
    format!("{head}{}{}--edge--\r\n", part("text/plain"), part("image/png")).into_bytes()
}

fn report(name: &str, bytes: usize, mails: usize, time: Duration) {
    let seconds = time.as_secs_f64();
    println!("{name:<16} {:>8.2} GB/s {:>10.0} mails/s", bytes as f64 / seconds / 1e9, mails as f64 / seconds);
}

/// The best of several rounds over all mails; `work` returns something that depends on its result.
fn timed(name: &str, mails: &[(Vec<u8>, Structure)], work: impl Fn(&[u8], &Structure) -> usize) {
    let bytes = mails.iter().map(|(mail, _)| mail.len()).sum();
    let round = || {
        let began = Instant::now();
        let sum: usize = mails.iter().map(|(mail, structure)| work(mail, structure)).sum();
        std::hint::black_box(sum);
        began.elapsed()
    };
    let best = (0..5).map(|_| round()).min().unwrap_or_default();
    report(name, bytes, mails.len(), best);
}

fn main() -> std::io::Result<()> {
    let mut mails = Vec::new();
    match std::env::args().nth(1) {
        Some(folder) => collect(Path::new(&folder), &mut mails)?,
        None => mails = vec![made_up(); 100],
    }
    let mails: Vec<_> = mails.into_iter().map(|mail| (Structure::parse(&mail), mail)).map(|(structure, mail)| (mail, structure)).collect();
    let parts: usize = mails.iter().map(|(_, structure)| structure.part_count()).sum();
    for (mail, structure) in &mails {
        structure.check(mail.len());
    }
    println!("{} mails, {} bytes, {parts} parts", mails.len(), mails.iter().map(|(mail, _)| mail.len()).sum::<usize>());
    let needle = Needle::new("no such text anywhere");
    timed("structure", &mails, |mail, _| Structure::parse(mail).part_count());
    timed("envelope", &mails, |mail, structure| envelope(mail, structure).len());
    timed("bodystructure", &mails, |mail, structure| body_structure(mail, structure, true).len());
    timed("header", &mails, |mail, structure| section(mail, structure, &[], SectionKind::Header).map_or(0, |content| content.len()));
    timed("binary[1]", &mails, |mail, structure| binary(mail, structure, &[1]).map_or(0, |data| data.map_or(0, |data| data.len())));
    timed("search text", &mails, |mail, structure| usize::from(text_contains(mail, structure, &needle)));
    timed("preview", &mails, |mail, structure| preview(mail, structure).len());
    timed("sort keys", &mails, |mail, structure| {
        message_subject(mail, structure).text.len()
            + thread_root(mail, structure).map_or(0, |id| id.len())
            + usize::from(sent_date(mail, structure).is_some())
    });
    Ok(())
}
