//! The CPU model of a QEMU guest: its signature stands in the guest's first registers.

use super::Error;
use std::fmt;
use std::str::FromStr;

/// QEMU's EPYC models (`builtin_x86_defs` in its target/i386/cpu.c): name, family, model, stepping.
const MODELS: [(&str, u32, u32, u32); 5] =
    [("EPYC", 23, 1, 2), ("EPYC-Rome", 23, 49, 0), ("EPYC-Milan", 25, 1, 1), ("EPYC-Genoa", 25, 17, 0), ("EPYC-Turin", 26, 0, 0)];

/// A CPU by its signature, as CPUID function 1 gives it in EAX (AMD 25481).
///
/// It is read from the name of a QEMU model with or without its version (`EPYC-Milan`, `EPYC-v4`), from
/// `family/model/stepping` in decimal (`25/1/1`), or from the signature in hexadecimal (`0xa00f11`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu(u32);

impl Cpu {
    /// The names of the QEMU models, for help and completions.
    pub const NAMES: [&str; 5] = [MODELS[0].0, MODELS[1].0, MODELS[2].0, MODELS[3].0, MODELS[4].0];

    /// A CPU by family (at most 270), model (at most 255) and stepping (at most 15); `None` above that.
    pub fn new(family: u32, model: u32, stepping: u32) -> Option<Self> {
        // A family above 15 is the sum of two fields.
        let extended = family.saturating_sub(15);
        let fits = extended <= 0xff && model <= 0xff && stepping <= 0xf;
        fits.then_some(Cpu(extended << 20 | (model >> 4) << 16 | family.min(15) << 8 | (model & 15) << 4 | stepping))
    }

    /// The signature.
    pub fn signature(self) -> u32 {
        self.0
    }

    fn from_name(name: &str) -> Option<Self> {
        // The versions of a model differ in features and share the signature. QEMU's one alias is an old name for EPYC-v2.
        let lower = name.to_ascii_lowercase();
        let base = match lower.rsplit_once("-v") {
            Some((base, version)) if matches!(version.as_bytes(), [b'1'..=b'9']) => base,
            _ if lower == "epyc-ibpb" => "epyc",
            _ => &lower,
        };
        let (_, family, model, stepping) = MODELS.into_iter().find(|(name, ..)| name.eq_ignore_ascii_case(base))?;
        Self::new(family, model, stepping)
    }

    fn from_numbers(text: &str) -> Option<Self> {
        let mut numbers = text.split('/').map(|number| number.parse().ok());
        let (family, model, stepping) = (numbers.next()??, numbers.next()??, numbers.next()??);
        if numbers.next().is_some() {
            return None;
        }
        Self::new(family, model, stepping)
    }
}

impl FromStr for Cpu {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let cpu = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok().map(Cpu),
            None => Self::from_name(text).or_else(|| Self::from_numbers(text)),
        };
        cpu.ok_or_else(|| Error::UnknownCpu(text.to_owned()))
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match MODELS.iter().find(|(_, family, model, stepping)| Self::new(*family, *model, *stepping) == Some(*self)) {
            Some((name, ..)) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_call_a_cpu() {
        // The signatures are those of sev-snp-measure 0.0.13.
        for (texts, signature) in [
            (&["EPYC", "EPYC-v4", "epyc-ibpb", "23/1/2", "0x800f12"][..], 0x80_0f12),
            (&["EPYC-Rome", "EPYC-Rome-v3"], 0x83_0f10),
            (&["EPYC-Milan", "epyc-milan-V2", "25/1/1"], 0xa0_0f11),
            (&["EPYC-Genoa", "25/17/0"], 0xa1_0f10),
            (&["EPYC-Turin", "EPYC-Turin-v1", "26/0/0"], 0xb0_0f00),
            (&["6/15/1"], 0x6f1),
        ] {
            for text in texts {
                assert_eq!(text.parse::<Cpu>().map(Cpu::signature), Ok(signature), "{text}");
            }
        }
        for name in Cpu::NAMES {
            assert_eq!(name.parse::<Cpu>().unwrap().to_string(), name);
        }
        assert_eq!("6/15/1".parse::<Cpu>().unwrap().to_string(), "0x6f1");
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "EPYC-",
            "EPYC-v",
            "EPYC-v44",
            "EPYC-v0",
            "Opteron",
            "25/1",
            "25/1/1/1",
            "271/1/1",
            "25/256/1",
            "25/1/16",
            "0x",
            "0x1ffffffff",
        ] {
            assert_eq!(text.parse::<Cpu>(), Err(Error::UnknownCpu(text.to_owned())), "{text}");
        }
    }
}
