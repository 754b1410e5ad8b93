//! A plugin in Rust: words that were said, counted.
//!
//!   POST /words               counts the words of the body
//!   GET  /words/:word         how often, or 404
//!   GET  /words-sum?n=N       sums the first N squares on the pool
//!   GET  /words-wait?ms=N     answers N ms later
//!   GET  /words-panic/:how    what a panic costs: the request (how: now, later, work, drop)

use graft::{Counter, Later, Next, Request, Server};
use std::collections::HashMap;
use std::sync::Mutex;

struct Words {
    counted: Counter,
    words: Mutex<HashMap<String, u64>>,
}

impl graft::State for Words {
    fn init(server: &Server) -> Result<Self, String> {
        let first = server.config_str("first", "");
        if first.contains(' ') {
            return Err(format!("config.first is '{}': expected one word; 100%s sure", first));
        }
        if first == "panic" {
            panic!("config.first says so");
        }
        let words = if first.is_empty() { None } else { Some((first, 1)) };
        Ok(Words {
            counted: server.counter("counted", "Words that were counted.")?,
            words: Mutex::new(words.into_iter().collect()),
        })
    }
}

fn number(text: Option<&[u8]>) -> Option<u64> {
    std::str::from_utf8(text?).ok()?.parse().ok()
}

fn count(req: &mut Request, state: &Words) -> Next {
    let body = String::from_utf8_lossy(req.body().unwrap_or(b"")).into_owned();
    let mut words = state.words.lock().unwrap();
    let mut n = 0;
    for word in body.split_whitespace() {
        *words.entry(word.to_owned()).or_insert(0) += 1;
        n += 1;
    }
    state.counted.add(n);
    req.text(200, &format!("{}\n", n))
}

fn show(req: &mut Request, state: &Words) -> Next {
    let word = String::from_utf8_lossy(req.param("word").unwrap_or(b"")).into_owned();
    let times = state.words.lock().unwrap().get(&word).copied();
    match times {
        Some(n) => req.text(200, &format!("{}\n", n)),
        None => req.error(404, &format!("nobody said '{}'", word)),
    }
}

fn sum(req: &mut Request, _: &Words) -> Next {
    let n = match number(req.query("n")) {
        Some(n) if n <= 10_000_000 => n,
        _ => return req.error(400, "n: expected a number up to 10000000"),
    };
    req.defer().offload(
        move || (1..=n).map(|i| i * i).sum::<u64>(),
        |later, x, sum| {
            x.text(200, &format!("{}\n", sum));
            later.done();
        },
    );
    Next::Later
}

fn wait(req: &mut Request, _: &Words) -> Next {
    let ms = number(req.query("ms")).unwrap_or(0) as u32;
    req.defer().after(ms, |later, x| {
        x.text(200, "waited\n");
        later.done();
    });
    Next::Later
}

fn panic(req: &mut Request, _: &Words) -> Next {
    match req.param("how") {
        Some(b"now") => panic!("in a handler"),
        Some(b"later") => req.defer().after(1, |_, _| panic!("in a timer")),
        Some(b"work") => req.defer().offload(|| panic!("on the pool"), |l: Later, _, ()| l.done()),
        Some(b"drop") => drop(req.defer()),
        _ => return Next::Later,
    }
    Next::Later
}

graft::plugin! {
    name: "words", version: "1.0.0", summary: "Counts words; in Rust.", state: Words,
    routes: [
        ("POST", "/words", count),
        ("GET", "/words/:word", show),
        ("GET", "/words-sum", sum),
        ("GET", "/words-wait", wait),
        ("GET", "/words-panic/:how", panic),
    ],
}
