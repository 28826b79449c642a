//! The page, in a real browser without a network.

use serde_json::Value;

use super::{FOLDER, PORT, read, read_json, run, script, world};
use crate::harness::{Finished, REMOTE4, World, require};

/// Behind the page: what the browser made of it, as JSON.
const PROBE: &str = r#"<script>
const bars = document.getElementById("bars");
const plot = bars && bars.querySelector("svg.when");
const found = {
  width: document.documentElement.scrollWidth,
  screen: document.documentElement.clientWidth,
  requests: performance.getEntriesByType("resource").length,
  scripts: document.scripts.length,
  images: document.images.length,
  title: document.title,
  heading: document.querySelector("h1").textContent,
  background: getComputedStyle(document.body).backgroundColor,
  names: [...document.querySelectorAll("section.flows tbody tr th bdi")].map(e => e.textContent),
  programs: [...document.querySelectorAll("section.flows tbody tr td:nth-child(4) bdi")].map(e => e.textContent),
  unnamed: [...document.querySelectorAll("svg[role=img], section, .scroll")]
    .filter(e => !e.ariaLabel && !document.getElementById(e.getAttribute("aria-labelledby"))).length,
  bars: [...document.querySelectorAll("g.flow")].map(g => {
    const whole = plot.width.baseVal.value;
    const boxes = [...g.querySelectorAll("rect.phase")].map(r => r.getBBox());
    return {
      number: +g.dataset.number, verdict: g.getAttribute("class"),
      from: Math.min(...boxes.map(b => b.x)) / whole,
      to: Math.max(...boxes.map(b => b.x + b.width)) / whole,
      open: boxes[boxes.length - 1].x / whole,
      shape: [...g.querySelectorAll("path.activity")].map(p => p.getBBox())
        .map(b => [b.x / 1000, (b.x + b.width) / 1000, b.height])[0],
      row: boxes[0].y, shown: g.getBoundingClientRect().height > 0,
      text: g.querySelector("title").textContent,
    };
  }),
  areas: [...document.querySelectorAll("path.rate")].map(p => {
    const box = p.getBBox();
    return { left: box.x, right: box.x + box.width, bottom: box.y + box.height, height: box.height };
  }),
};
const said = document.createElement("pre");
said.id = "probe";
said.textContent = JSON.stringify(found);
document.body.append(said);
</script>"#;

/// The policy that keeps a page from running anything, the probe included.
const POLICY: &str = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'";

fn browser(world: &World, options: &str, page: &str) -> Finished {
    require("chromium-headless-shell");
    // The guest's namespace has no way out.
    world.guest.sh(&format!(
        "HOME=/run/browser timeout 60 chromium-headless-shell --no-sandbox --disable-gpu \
         --user-data-dir=/run/browser --enable-logging=stderr {options} --dump-dom \
         'file://{FOLDER}/{page}'"
    ))
}

/// What the browser made of a page.
fn probe(world: &World, options: &str, name: &str) -> Value {
    let page = read(world, name);
    assert!(page.contains(POLICY), "{name} has no policy");
    let begin = page.find(POLICY).expect("the policy");
    let end = begin + page[begin..].find('>').expect("its end") + 1;
    let probed = format!("{}{}{PROBE}", &page[..begin], &page[end..]);
    let path = world.outer.root().join("run/reports/probed.html");
    std::fs::write(path, probed).expect("writes");
    let dom = browser(world, options, "probed.html").success().stdout;
    let (_, found) = dom
        .rsplit_once("<pre id=\"probe\">")
        .expect("the probe ran");
    let (found, _) = found.split_once("</pre>").expect("its end");
    let found = found
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&");
    serde_json::from_str(&found).expect("JSON")
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn bars_and_plots_are_where_the_figures_say() {
    let (world, _servers) = world();
    run(&world, &["r.json", "r.html"], &["python3", "-c", &script()]);
    let report = read_json(&world, "r.json");
    let found = probe(&world, "--window-size=1280,900", "r.html");
    let flows = report["flows"].as_array().expect("flows");
    let bars = found["bars"].as_array().expect("bars");
    assert_eq!(bars.len(), flows.len(), "{found:#}");
    let duration = number(&report["duration_seconds"]);
    let mut shapes = 0;
    for (row, (flow, bar)) in flows.iter().zip(bars).enumerate() {
        assert_eq!(flow["number"], bar["number"]);
        let verdict = format!("v-{}", flow["verdict"].as_str().expect("a verdict"));
        assert!(
            bar["verdict"]
                .as_str()
                .expect("a class")
                .ends_with(&verdict),
            "{bar}"
        );
        let start = number(&flow["start_seconds"]);
        let open = start + flow["connect_seconds"].as_f64().unwrap_or(0.0);
        for (place, time) in [
            ("from", start),
            ("open", open),
            ("to", number(&flow["end_seconds"])),
        ] {
            let error = (number(&bar[place]) - time / duration).abs();
            assert!(
                error < 0.001,
                "{place}: {bar} is not {flow:#} of {duration} s"
            );
        }
        if flow.get("activity").is_some() {
            let [left, right, height] = [0, 1, 2].map(|at| number(&bar["shape"][at]));
            assert!(left > number(&bar["from"]) - 0.001, "{bar}");
            assert!(right < number(&bar["to"]) + 0.001, "{bar}");
            assert!((height - 100.0).abs() < 0.01, "{bar}");
            shapes += 1;
        }
        assert_eq!(number(&bar["row"]), (row * 20 + 5) as f64);
        assert_eq!(bar["shown"], true, "{bar}");
    }
    // That which stays open.
    assert!(shapes >= 1, "{report:#}");
    let names: Vec<&str> = found["names"]
        .as_array()
        .expect("names")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(names.contains(&"www.example:7000"), "{names:?}");
    // Two plots, on their axes and not beyond.
    let areas = found["areas"].as_array().expect("plots");
    assert_eq!(areas.len(), 2, "{found:#}");
    let intervals = report["throughput"]["to_guest"]
        .as_array()
        .expect("figures")
        .len();
    let covered = number(&report["throughput"]["interval_seconds"]) * intervals as f64;
    for area in areas {
        for (side, place) in [("left", 0.0), ("bottom", 100.0)] {
            assert!((number(&area[side]) - place).abs() < 0.01, "{side}: {area}");
        }
        let right = (covered / duration * 1000.0).min(1000.0);
        assert!(
            (number(&area["right"]) - right).abs() < 0.1,
            "{area}, not {right}"
        );
        assert!((40.0..=100.0).contains(&number(&area["height"])), "{area}");
    }
}

#[test]
fn the_page_fits_every_screen_and_asks_nobody() {
    let (world, _servers) = world();
    run(&world, &["r.html"], &["python3", "-c", &script()]);
    let mut backgrounds = Vec::new();
    for options in [
        "--window-size=1280,900",
        "--window-size=390,800",
        "--window-size=1280,900 --blink-settings=preferredColorScheme=0",
    ] {
        let found = probe(&world, options, "r.html");
        assert!(
            number(&found["width"]) <= number(&found["screen"]),
            "{options}: {found:#}"
        );
        assert_eq!(found["requests"], 0, "{found:#}");
        assert_eq!(
            (&found["scripts"], &found["images"]),
            (&1.into(), &0.into()),
            "{found:#}"
        );
        assert_eq!(found["unnamed"], 0, "{found:#}");
        backgrounds.push(found["background"].clone());
    }
    assert_eq!(backgrounds[0], backgrounds[1]);
    assert_ne!(backgrounds[0], backgrounds[2], "light and dark");
    // As it is, the browser has nothing to complain about ...
    let clean = browser(&world, "", "r.html").success();
    assert!(!clean.stderr.contains("CONSOLE"), "{}", clean.stderr);
    // ... and would, if there were anything.
    let page = read(&world, "r.html").replace("</body>", "<img src=\"http://192.0.2.1/x\"></body>");
    let path = world.outer.root().join("run/reports/x.html");
    std::fs::write(path, page).expect("writes");
    let refused = browser(&world, "", "x.html").success();
    assert!(refused.stderr.contains("CONSOLE"), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("Content Security Policy"),
        "{}",
        refused.stderr
    );
}

#[test]
fn hostile_words_and_programs_stay_text() {
    let (world, _servers) = world();
    let script = "<script>document.title='owned'</script>";
    let quote = "\"><img src=x onerror=\"document.title='owned'\">";
    // A process has the name of its file.
    world
        .outer
        .ok("cp $(readlink -f $(command -v nc)) '/run/reports/<b onload=x>'");
    // It lives for long enough to be seen.
    let command =
        format!("(echo get 100; sleep 0.5) | '{FOLDER}/<b onload=x>' {REMOTE4} {PORT}; exit 0");
    let finished = run(
        &world,
        &["r.html"],
        &["sh", "-c", &command, script, quote, "\u{1b}[2J"],
    );
    finished.success();
    let found = probe(&world, "", "r.html");
    let title = found["title"].as_str().expect("a title");
    assert!(
        title.starts_with("sh -c ") && title.ends_with("network report"),
        "{title}"
    );
    let heading = found["heading"].as_str().expect("a heading");
    for word in [script, "<img src=x onerror=", "\\u{1b}[2J"] {
        assert!(heading.contains(word), "{word} in {heading}");
    }
    assert_eq!(
        (&found["scripts"], &found["images"]),
        (&1.into(), &0.into()),
        "{found:#}"
    );
    assert_eq!(
        found["programs"],
        serde_json::json!(["<b onload=x>"]),
        "{found:#}"
    );
}
