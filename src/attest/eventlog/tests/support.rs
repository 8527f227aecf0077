//! Reads the real logs, and writes logs.

use crate::attest::eventlog::image::Expected;
use crate::attest::eventlog::{Event, EventType, Registers, parse, replay, sha256};

/// A real log, and the registers that its machine had.
pub(crate) struct Real {
    pub(crate) log: &'static [u8],
    pub(crate) pcr: Registers,
}

macro_rules! real {
    ($name:literal) => {
        crate::attest::eventlog::tests::support::Real::of(
            include_bytes!(concat!("../testdata/", $name, ".bin")),
            include_str!(concat!("../testdata/", $name, ".json")),
        )
    };
}
pub(super) use real;

impl Real {
    pub(crate) fn of(log: &'static [u8], registers: &str) -> Real {
        let json: serde_json::Value = serde_json::from_str(registers).unwrap();
        let pcr = json["pcr"].as_object().unwrap().iter().map(|(pcr, value)| (pcr.parse().unwrap(), digest(value))).collect();
        Real { log, pcr }
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        parse(self.log).unwrap()
    }

    /// As a TPM would sign these registers.
    pub(crate) fn quote(&self, numbers: &[u8]) -> Registers {
        select(&self.pcr, numbers)
    }
}

/// What is asked of a machine.
pub(crate) const ASKED: [u8; 6] = [4, 7, 9, 11, 12, 13];

/// Some registers, also those that a log does not mention.
pub(crate) fn select(registers: &Registers, numbers: &[u8]) -> Registers {
    numbers.iter().map(|pcr| (*pcr, registers.get(pcr).copied().unwrap_or_else(|| crate::attest::eventlog::initial(*pcr)))).collect()
}

/// What a TPM would sign after these events.
pub(crate) fn asked(events: &[Event]) -> Registers {
    select(&replay(events), &ASKED)
}

fn digest(value: &serde_json::Value) -> [u8; 32] {
    let text = value.as_str().unwrap();
    assert_eq!(text.len(), 64);
    std::array::from_fn(|index| u8::from_str_radix(&text[2 * index..2 * index + 2], 16).unwrap())
}

/// The image of `plain`, `changed` and `shell`.
pub(crate) fn expected() -> Expected {
    let json: serde_json::Value = serde_json::from_str(include_str!("../testdata/image.json")).unwrap();
    let section = |section: &serde_json::Value| {
        (section["name"].as_str().unwrap().to_owned(), digest(&section["sha256"]), section["size"].as_u64().unwrap())
    };
    Expected {
        uki_authenticode: digest(&json["uki_authenticode"]),
        kernel_authenticode: digest(&json["kernel_authenticode"]),
        sections: json["sections"].as_array().unwrap().iter().map(section).collect(),
        command_line: json["command_line"].as_str().unwrap().to_owned(),
        pcr: json["pcr"].as_object().unwrap().iter().map(|(pcr, value)| (pcr.parse().unwrap(), digest(value))).collect(),
    }
}

/// The place of the content of a section in PCR 11.
pub(crate) fn section(events: &[Event], name: &str) -> usize {
    let digest = sha256(format!("{name}\0").as_bytes());
    events.iter().position(|event| event.pcr == 11 && event.sha256 == digest).unwrap() + 1
}

/// Places of the events of a register.
pub(crate) fn places(events: &[Event], pcr: u8) -> Vec<usize> {
    (0..events.len()).filter(|index| events[*index].pcr == pcr).collect()
}

pub(crate) fn event(pcr: u8, kind: EventType, measured: &[u8], data: &[u8]) -> Event {
    Event { pcr, kind, sha256: sha256(measured), data: data.to_vec() }
}

/// A log with SHA-256 alone.
pub(crate) fn write(events: &[Event]) -> Vec<u8> {
    let mut log = header(&[(0x000b, 32)]);
    for event in events {
        let pcr = if event.pcr == Event::NO_PCR { u32::MAX } else { u32::from(event.pcr) };
        for number in [pcr, event.kind.code(), 1] {
            log.extend(number.to_le_bytes());
        }
        log.extend(0x000b_u16.to_le_bytes());
        log.extend(event.sha256);
        log.extend((event.data.len() as u32).to_le_bytes());
        log.extend(&event.data);
    }
    log
}

/// The first event of a log with these algorithms.
pub(crate) fn header(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    data.extend((algorithms.len() as u32).to_le_bytes());
    for (number, size) in algorithms {
        data.extend(number.to_le_bytes());
        data.extend(size.to_le_bytes());
    }
    data.push(0);
    let mut log = [0u32.to_le_bytes(), 3u32.to_le_bytes()].concat();
    log.extend([0; 20]);
    log.extend((data.len() as u32).to_le_bytes());
    log.extend(data);
    log
}
