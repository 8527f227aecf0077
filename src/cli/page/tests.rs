//! Pages of all sizes, and what hostile texts become on them.

use super::*;

const NAMES: [&str; 6] = [
    "<script>alert(1)</script>",
    "\" onload=\"x",
    "' style='x",
    "</style><img src=//evil.example>",
    "\u{202e}gnp.exe",
    "a&amp;b\u{1b}[2J\0",
];

fn series(name: &str, values: Vec<u64>) -> Series {
    Series { name: name.to_owned(), values }
}

fn used(up: u64) -> Used {
    Used { up, down: 3 * up, sessions: 2 }
}

/// Everything in it: so many days, machines and friends.
fn data(days: usize, machines: usize, friends: usize) -> Data {
    let values = |n: usize| (0..days).map(|day| ((n * 7919 + day * 104_729) % 100_000_000) as u64).collect::<Vec<_>>();
    Data {
        owner: "INLYXLSRFNQMWPIP2N3C3Z6KY3KOCVJJ".to_owned(),
        made: 1_795_298_725,
        days: (0..days).map(|day| format!("{day} Nov")).collect(),
        machines: (0..machines)
            .map(|n| Machine {
                state: "running".to_owned(),
                bytes: series(&format!("machine-{n}"), values(n)),
                sessions: 7,
                silent: (n % 5 == 4).then(|| "it does not run".to_owned()),
            })
            .collect(),
        friends: (0..friends).map(|n| (series(&format!("a-friend-with-a-long-name-{n}"), values(n)), used(n as u64 + 1))).collect(),
        handshakes: values(3),
        refusals: (0..20).map(|n| series(&format!("grant-bound-elsewhere-{n}"), values(n))).collect(),
        attention: vec![("machine home is unreachable".to_owned(), "portdistrict machine logs home".to_owned())],
    }
}

/// The tags of a page, in order; refuses what is no well-formed sequence of them.
fn tags(page: &str) -> Vec<String> {
    page.split('<').skip(1).map(|part| part.split_once('>').expect("a tag that ends").0.to_owned()).collect()
}

#[test]
fn a_page_is_whole_and_loads_nothing() {
    for data in [data(30, 3, 9), data(1, 1, 1), data(30, 0, 0), Data::default()] {
        let page = render(&data);
        assert!(page.contains("content=\"default-src 'none'; style-src 'unsafe-inline'\""));
        for forbidden in ["<script", "<img", "<link", "<iframe", "href=", "src=", "url(", "@import", "http:", "https:", "onload"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        let tags = tags(&page);
        for name in ["html", "body", "main", "section", "svg", "table", "details", "tr", "td", "th", "g", "ul", "li", "title", "desc"] {
            let open = tags.iter().filter(|tag| tag.split(' ').next() == Some(name)).count();
            let close = tags.iter().filter(|tag| **tag == format!("/{name}")).count();
            assert_eq!(open, close, "{name}");
        }
        assert_eq!(tags.iter().filter(|tag| tag.starts_with("svg ")).count(), 4);
        assert_eq!(tags.iter().filter(|tag| tag.starts_with("table class=\"days\"")).count(), 4);
    }
}

#[test]
fn the_numbers_of_a_plot_are_in_the_table_below_it() {
    let mut small = data(2, 0, 0);
    small.refusals = vec![series("busy", vec![41, 0]), series("grant-expired", vec![1, 7])];
    let page = render(&small);
    let (_, plot) = page.split_once("Refusals by reason</h2>").unwrap();
    for text in [
        "0 Nov: 42\nbusy 41\ngrant-expired 1",
        "data-s=\"busy\">41<",
        "data-s=\"grant-expired\">7<",
        "data-s=\"total\">42<",
        "class=\"z\" data-s=\"busy\">0<",
    ] {
        assert!(plot.contains(text), "{text} is missing:\n{plot}");
    }
}

#[test]
fn hostile_texts_stay_texts() {
    let clean = data(30, 6, 6);
    let mut hostile = data(30, 6, 6);
    for (n, name) in NAMES.iter().enumerate() {
        hostile.machines[n].bytes.name = (*name).to_owned();
        hostile.machines[n].state = (*name).to_owned();
        hostile.machines[n].silent = hostile.machines[n].silent.as_ref().map(|_| (*name).to_owned());
        hostile.friends[n].0.name = (*name).to_owned();
        hostile.refusals[n].name = (*name).to_owned();
        hostile.days[n] = (*name).to_owned();
    }
    hostile.owner = NAMES[0].to_owned();
    hostile.attention[0] = (NAMES[3].to_owned(), NAMES[1].to_owned());
    let page = render(&hostile);
    let kinds = |page: &str| {
        let mut kinds: Vec<_> = tags(page).iter().map(|tag| tag.split([' ', '/']).next().unwrap_or_default().to_owned()).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    assert_eq!(kinds(&page), kinds(&render(&clean)));
    for tag in tags(&page) {
        // Attributes, without what stands in quotes.
        let tag: String = tag.split('"').step_by(2).collect();
        assert!(!tag.contains("onload=") && !tag.contains("style="), "{tag}");
    }
    assert!(!page.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && page.contains("a&amp;amp;b"));
}

#[test]
fn a_page_stays_small() {
    for data in [data(30, 40, 500), data(30, 40, 5000)] {
        let page = render(&data);
        assert!(page.len() < 300 * 1024, "{} bytes", page.len());
    }
    let page = render(&data(30, 1, 600));
    assert!(page.contains("and 100 more"));
}

#[test]
fn what_could_not_be_asked_is_said_and_not_shown_as_nothing() {
    let page = render(&data(30, 5, 1));
    assert!(page.contains("<b>machine-4</b> could not be asked: it does not run"));
    assert!(page.contains("<th scope=\"row\">machine-4</th><td>running</td><td>?</td><td>?</td>"));
    assert!(!render(&data(30, 4, 1)).contains("Not in these numbers"));
}

#[test]
fn colours_differ_for_colour_blind_eyes_too() {
    // Machado, Oliveira and Fernandes 2009, full severity, on linear RGB.
    let eyes = [
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ];
    let linear = |c: u8| {
        let c = f64::from(c) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055_f64).powf(2.4) }
    };
    let lab = |rgb: [f64; 3]| {
        let row = |a: f64, b: f64, c: f64, white: f64| {
            let t = (a * rgb[0] + b * rgb[1] + c * rgb[2]).max(0.0) / white;
            if t > 0.008_856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 }
        };
        let (x, y, z) = (row(0.4124, 0.3576, 0.1805, 0.9505), row(0.2126, 0.7152, 0.0722, 1.0), row(0.0193, 0.1192, 0.9505, 1.089));
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    };
    let colors: Vec<[u8; 3]> = STYLE
        .split("--c:#")
        .skip(1)
        .map(|text| {
            let hex: String = text.chars().take_while(char::is_ascii_hexdigit).collect();
            let hex = if hex.len() == 3 { hex.chars().flat_map(|c| [c, c]).collect() } else { hex };
            std::array::from_fn(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap())
        })
        .collect();
    assert_eq!(colors.len(), 8);
    for eye in eyes {
        let seen: Vec<_> = colors
            .iter()
            .map(|color| {
                let rgb = color.map(linear);
                lab(eye.map(|row| (row[0] * rgb[0] + row[1] * rgb[1] + row[2] * rgb[2]).clamp(0.0, 1.0)))
            })
            .collect();
        for (n, a) in seen.iter().enumerate() {
            for b in &seen[..n] {
                let distance = (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>().sqrt();
                assert!(distance > 12.0, "{distance:.1} between {a:?} and {b:?}");
            }
        }
    }
}
