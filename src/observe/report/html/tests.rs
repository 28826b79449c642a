use super::super::tests::{empty, example, hostile};
use super::*;

#[test]
fn places_on_an_axis() {
    assert_eq!(percent(1.0, 4.0), "25%");
    assert_eq!(percent(1.0, 3.0), "33.333%");
    assert_eq!(percent(5.0, 4.0), "100%");
    assert_eq!(percent(1.0, 0.0), "0%");
    assert_eq!(percent(0.0, 4.0), "0%");
}

#[test]
fn marks_are_round() {
    assert_eq!(ticks(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    assert_eq!(ticks(1.0).len(), 6);
    assert_eq!(ticks(7.3), [0.0, 2.0, 4.0, 6.0]);
    assert_eq!(ticks(10.3).len(), 6);
    assert_eq!(round("2.00 s"), "2 s");
    assert_eq!(round("100 ms"), "100 ms");
    assert_eq!(round("2.50 Mbit/s"), "2.5 Mbit/s");
    assert_eq!(round("1 min 10 s"), "1 min 10 s");
    assert_eq!(ticks(0.0), [0.0]);
    assert_eq!(ticks(f64::NAN), [0.0]);
    for whole in [1e-9, 0.013, 3.3, 86400.0, 1e18] {
        let marks = ticks(whole);
        assert!((3..=7).contains(&marks.len()), "{whole}: {marks:?}");
    }
}

#[test]
fn a_page_has_its_parts() {
    let page = page(&example());
    for part in [
        "<title>curl 'https://example.com/?a&amp;b' – network report</title>",
        "example.com",
        "exit status 0",
        "class=\"flow led followed v-connected\"",
        "class=\"flow failed v-refused\"",
        "id=\"show-failed\"",
    ] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    assert_eq!(page.matches("<g class=\"flow ").count(), 2);
}

#[test]
fn nothing_is_a_page_too() {
    let page = page(&empty());
    assert!(page.contains("There were none."), "{page}");
    assert!(page.contains("Nothing passed."), "{page}");
}

#[test]
fn a_page_runs_nothing_and_asks_nobody() {
    for report in [example(), hostile()] {
        let page = page(&report);
        let lower = page.to_ascii_lowercase();
        for part in [
            "<script",
            "<img",
            "<iframe",
            "<link",
            "<object",
            "javascript:",
            "@import",
            "url(",
        ] {
            // Text of a hostile guest stands there as text: escaped.
            assert!(!lower.contains(part), "{part} in {page}");
        }
        assert!(page.contains("default-src &#39;none&#39;") || page.contains("default-src 'none'"));
        for (name, _) in attributes(&lower) {
            assert!(
                !name.starts_with("on") && name != "src" && name != "href",
                "{name}"
            );
        }
    }
    let page = page(&hostile());
    assert!(
        page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"),
        "{page}"
    );
    assert!(!page.contains('\u{202e}') && page.contains("\\u{202e}"));
}

/// Names and values of all attributes, by a reader that knows quotes.
fn attributes(page: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = page;
    while let Some(open) = rest.find('<') {
        rest = &rest[open + 1..];
        let mut tag = rest;
        if tag.starts_with(['!', '/']) {
            continue;
        }
        tag = tag.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        loop {
            tag = tag.trim_start();
            if tag.starts_with('>') || tag.is_empty() {
                break;
            }
            let end = tag.find(['=', ' ', '>']).unwrap_or(tag.len());
            let name = tag[..end].to_owned();
            tag = &tag[end..];
            let mut value = String::new();
            if let Some(quoted) = tag.strip_prefix("=\"") {
                let end = quoted.find('"').expect("a closing quote");
                value = quoted[..end].to_owned();
                tag = &quoted[end + 1..];
            }
            found.push((name, value));
        }
        rest = tag;
    }
    found
}
