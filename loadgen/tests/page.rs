//! The page of a result: that it needs nothing from anywhere, and in a browser where one is
//! installed that it is there, fits a narrow window, and has a dark side.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ringgate_loadgen::cli::Status;
use ringgate_loadgen::details::{Details, Settings};
use ringgate_loadgen::page::{page, write};
use ringgate_loadgen::report::{Phase, Report, Unit};
use ringgate_loadgen::run::Measured;
use ringgate_loadgen::search::{Found, Trial};
use ringgate_loadgen::series::{Interval, Series};

/// A search and the run that its answer rests on.
fn report() -> Report {
    let mut measured = Measured {
        duration: Duration::from_secs(10),
        server_cpu: Some(Duration::from_secs(4)),
        open_loop: true,
        series: Series::new(Duration::from_secs(1)),
        ..Measured::default()
    };
    for number in 0..10 {
        let mut interval = Interval {
            number,
            confirmed: 2_000,
            begun: 2_000,
            failed: u64::from(number == 4) * 30,
            ..Interval::default()
        };
        for step in 1..=2_000_u64 {
            let latency = Duration::from_micros(300 + step * step / 400);
            interval.latency.record(latency);
            measured.statistics.corrected.record(latency);
            measured.statistics.plain.record(latency / 2);
            measured.statistics.tls.record(latency / 3);
        }
        measured.series.add(&interval, 10);
        measured
            .series
            .server_cpu(number as usize, Duration::from_millis(400));
    }
    (measured.statistics.confirmed, measured.statistics.due) = (20_000, 20_000);
    measured.statistics.begun = 20_000;
    let settings = Settings {
        target: "a-host-with-a-long-name.of-a-long-domain.example:8443".to_owned(),
        mode: "handshake".to_owned(),
        confirm: "echo".to_owned(),
        connections: 64,
        threads: 1,
        duration_s: 10.0,
        rate: Some(2_000.0),
        arrival: Some("poisson".to_owned()),
        ..Settings::default()
    };
    let trials = [500.0, 1_000.0, 2_000.0, 4_000.0, 3_000.0, 2_500.0]
        .map(|rate| Trial {
            rate,
            held: rate <= 2_000.0,
            p99_us: Some(1_000.0 + rate * rate / 500.0),
            ..Trial::default()
        })
        .to_vec();
    Report {
        phases: vec![Phase::new(
            "handshake",
            Unit::Handshake,
            &measured,
            Some(100.0),
        )],
        details: Some(Details::new(&measured, settings, &[])),
        search: Some(Found {
            slo: "p99<20ms".to_owned(),
            rate: Some(2_000.0),
            trials,
            ..Found::default()
        }),
        status: Status::Held,
        verdict: "2000 a second hold p99<20ms, confirmed 3 times".to_owned(),
        ..Report::empty()
    }
}

#[test]
fn the_page_needs_nothing_from_anywhere() {
    let page = page(&report());
    for outside in [
        "http:", "https:", "//", "src=", "href=", "url(", "@import", "<script", "<link",
    ] {
        assert!(!page.contains(outside), "{outside}");
    }
    for plot in ["distribution", "throughput", "capacity", "costs"] {
        assert!(page.contains(&format!("<figure id=\"{plot}\">")), "{plot}");
    }
    assert!(page.contains("99.99%") && page.contains("prefers-color-scheme: dark"));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
}

/// Files that go with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringgate-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn browser() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    std::env::split_paths(&folders)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|path| path.is_file())
}

/// What a browser makes of `file`, as text of its document; `None` with a notice where it will not
/// run here.
fn dump(browser: &Path, scratch: &Scratch, file: &Path, more: &[&str]) -> Option<String> {
    let out = scratch.0.join("dump.html");
    let mut child = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        // No name resolves: a page that asked for something would not get it.
        .args([
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--virtual-time-budget=3000",
        ])
        .arg(format!(
            "--user-data-dir={}",
            scratch.0.join("profile").display()
        ))
        .args(more)
        .arg("--dump-dom")
        .arg(format!("file://{}", file.display()))
        .stdout(std::fs::File::create(&out).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            child.wait().unwrap();
            println!("skipped: {} does not end", browser.display());
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::read_to_string(&out).ok()
}

/// A document that shows the page in a frame of `width` and writes down what it finds.
fn probe(page: &str, width: u32) -> String {
    let framed = page.replace('&', "&amp;").replace('"', "&quot;");
    format!(
        "<!doctype html><body><iframe id=\"f\" width=\"{width}\" height=\"900\" \
         style=\"border:0\" srcdoc=\"{framed}\"></iframe><pre id=\"found\"></pre><script>\
         document.getElementById('f').onload = () => {{\
           const d = document.getElementById('f').contentDocument;\
           const shown = [...d.querySelectorAll('figure svg')].filter(s => {{\
             const b = s.getBoundingClientRect(); return b.width > 200 && b.height > 80; }});\
           const small = [...d.querySelectorAll('svg text')].filter(t =>\
             t.getBoundingClientRect().height < 9).length;\
           document.getElementById('found').textContent = 'FOUND ' + JSON.stringify({{\
             wide: d.documentElement.scrollWidth, shown: shown.length, small: small,\
             lines: d.querySelectorAll('polyline').length,\
             ground: getComputedStyle(d.body).backgroundColor,\
             ink: getComputedStyle(d.body).color }}) + ' END';\
         }};</script></body>"
    )
}

fn found(dump: &str) -> serde_json::Value {
    let text = dump.split_once("FOUND {").map_or("", |(_, text)| text);
    let text = format!("{{{}", text.split(" END").next().unwrap_or_default());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {dump}"))
}

/// Red, green and blue together of `rgb(r, g, b)`.
fn brightness(colour: &serde_json::Value) -> u32 {
    let text = colour.as_str().unwrap();
    let digits = text.trim_start_matches("rgb(").trim_end_matches(')');
    digits
        .split(',')
        .map(|part| part.trim().parse::<u32>().unwrap())
        .sum()
}

#[test]
fn a_browser_shows_it_narrow_and_dark() {
    let Some(browser) = browser() else {
        println!("skipped: no Chromium is installed");
        return;
    };
    let scratch = Scratch::new("page");
    write(&scratch.0.join("page.html"), &report()).unwrap();
    let page = std::fs::read_to_string(scratch.0.join("page.html")).unwrap();
    for (width, dark) in [(400, false), (400, true), (1_000, false)] {
        let file = scratch.0.join("probe.html");
        std::fs::write(&file, probe(&page, width)).unwrap();
        let scheme = if dark {
            "--blink-settings=preferredColorScheme=0"
        } else {
            "--blink-settings=preferredColorScheme=1"
        };
        let Some(dump) = dump(&browser, &scratch, &file, &[scheme]) else {
            return;
        };
        let found = found(&dump);
        let wide = found["wide"].as_u64().unwrap();
        assert!(
            wide <= u64::from(width),
            "{width}: scrolls sideways to {wide}"
        );
        assert_eq!(found["shown"], 4, "{found}");
        assert_eq!(found["small"], 0, "text too small to read: {found}");
        assert!(found["lines"].as_u64().unwrap() >= 3, "{found}");
        let (ground, ink) = (brightness(&found["ground"]), brightness(&found["ink"]));
        assert_eq!(ground < ink, dark, "{found}");
        assert!(ground.abs_diff(ink) > 400, "{found}");
    }
}
