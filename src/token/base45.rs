//! Base45 (RFC 9285), the densest text that the alphanumeric mode of a QR code holds.

const ALPHABET: &[u8; 45] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:";

/// How many characters `bytes` bytes take.
pub(crate) fn encoded_len(bytes: usize) -> usize {
    bytes / 2 * 3 + bytes % 2 * 2
}

/// Whether the alphabet has this character.
pub(crate) fn has(c: char) -> bool {
    u8::try_from(c).is_ok_and(|b| ALPHABET.contains(&b))
}

/// Writes bytes in base45.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(encoded_len(bytes.len()));
    for pair in bytes.chunks(2) {
        let mut n = pair.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
        for _ in 0..=pair.len() {
            out.push(char::from(ALPHABET[n % 45]));
            n /= 45;
        }
    }
    out
}

/// Reads base45; `None` for another alphabet, an impossible length or a group that stands for no bytes.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 3 * 2 + 1);
    for group in text.as_bytes().chunks(3) {
        let mut n = 0usize;
        for c in group.iter().rev() {
            n = n * 45 + ALPHABET.iter().position(|a| a == c)?;
        }
        match group.len() {
            3 => out.extend(u16::try_from(n).ok()?.to_be_bytes()),
            2 => out.push(u8::try_from(n).ok()?),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 9285, sections 4.3 and 4.4.
    #[test]
    fn examples_of_the_rfc() {
        for (plain, text) in [("AB", "BB8"), ("Hello!!", "%69 VD92EX0"), ("base-45", "UJCLQE7W581"), ("ietf!", "QED8WEX0")] {
            assert_eq!(encode(plain.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(plain.as_bytes()));
        }
        for bad in ["GGW", ":::", "A", "bb8", "BB8A", "ZZ"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let text = encode(&bytes);
            prop_assert_eq!(text.len(), encoded_len(bytes.len()));
            prop_assert_eq!(decode(&text), Some(bytes));
        }

        #[test]
        fn has_one_spelling(text in "[0-9A-Z $%*+./:-]{0,40}") {
            if let Some(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
