//! Tells in one pass over the bytes, without making a value of them, whether JSON is in the one canonical form (RFC 8785).

use std::borrow::Cow;
use std::cmp::Ordering;

/// Integers stay below this, so that every JSON reader keeps them exact.
pub const MAX_INTEGER: u64 = 1 << 53;
/// As deep as `serde_json` reads.
const MAX_DEPTH: usize = 127;

/// Whether these bytes are canonical JSON whose numbers are all whole and below 2^53 in size.
pub fn is_canonical(bytes: &[u8]) -> bool {
    let mut scan = Scan { bytes, at: 0 };
    std::str::from_utf8(bytes).is_ok() && scan.value(MAX_DEPTH).is_some() && scan.at == bytes.len()
}

/// Reads on from `at`; `None` means that something is not canonical. The bytes are UTF-8.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn value(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'{' => self.object(depth.checked_sub(1)?),
            b'[' => self.array(depth.checked_sub(1)?),
            b'"' => self.string().map(drop),
            b't' => self.expect(b"true"),
            b'f' => self.expect(b"false"),
            b'n' => self.expect(b"null"),
            _ => self.integer(),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, word: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    /// Members are in strictly ascending order, so none is there twice.
    fn object(&mut self, depth: usize) -> Option<()> {
        self.expect(b"{")?;
        if self.take(b'}') {
            return Some(());
        }
        let mut before: Option<&[u8]> = None;
        loop {
            let name = self.string()?;
            if before.is_some_and(|before| compare(before, name) != Some(Ordering::Less)) {
                return None;
            }
            before = Some(name);
            self.expect(b":")?;
            self.value(depth)?;
            if self.take(b'}') {
                return Some(());
            }
            self.expect(b",")?;
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.expect(b"[")?;
        if self.take(b']') {
            return Some(());
        }
        loop {
            self.value(depth)?;
            if self.take(b']') {
                return Some(());
            }
            self.expect(b",")?;
        }
    }

    /// A string; what is between its quotes.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b"\"")?;
        let begin = self.at;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => self.escape()?,
                0..0x20 => return None,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(&self.bytes[begin..self.at - 1])
    }

    /// Only what must be escaped is, in its shortest form.
    fn escape(&mut self) -> Option<()> {
        self.at += 1;
        if matches!(self.peek()?, b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't') {
            self.at += 1;
            return Some(());
        }
        self.expect(b"u00")?;
        let (high, low) = (self.peek()?, *self.bytes.get(self.at + 1)?);
        let short = high == b'0' && matches!(low, b'8' | b'9' | b'a' | b'c' | b'd');
        let plain = matches!(high, b'0' | b'1') && matches!(low, b'0'..=b'9' | b'a'..=b'f');
        self.at += 2;
        (plain && !short).then_some(())
    }

    fn integer(&mut self) -> Option<()> {
        let negative = self.take(b'-');
        let begin = self.at;
        let mut number = 0u64;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            self.at += 1;
        }
        let digits = &self.bytes[begin..self.at];
        let leading = digits.first()? == &b'0' && (digits.len() > 1 || negative);
        (!leading && number < MAX_INTEGER).then_some(())
    }
}

/// The order of RFC 8785, by UTF-16 units of the names that these spell; that of the bytes where both are plain ASCII.
fn compare(a: &[u8], b: &[u8]) -> Option<Ordering> {
    let plain = |name: &[u8]| name.iter().all(|byte| byte.is_ascii() && *byte != b'\\');
    if plain(a) && plain(b) {
        return Some(a.cmp(b));
    }
    let (a, b) = (spelled(a)?, spelled(b)?);
    Some(a.encode_utf16().cmp(b.encode_utf16()))
}

fn spelled(name: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(name).ok()?;
    if !text.contains('\\') {
        return Some(Cow::Borrowed(text));
    }
    serde_json::from_str::<String>(&format!("\"{text}\"")).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::json::canonical;
    use proptest::prelude::*;
    use serde_json::Value;

    fn exact(value: &Value) -> bool {
        match value {
            Value::Number(n) => n.as_u64().is_some_and(|n| n < MAX_INTEGER) || n.as_i64().is_some_and(|n| n.unsigned_abs() < MAX_INTEGER),
            Value::Array(values) => values.iter().all(exact),
            Value::Object(map) => map.values().all(exact),
            _ => true,
        }
    }

    /// What the scan must say: read, write again, compare.
    fn reference(bytes: &[u8]) -> bool {
        serde_json::from_slice::<Value>(bytes).is_ok_and(|value| exact(&value) && canonical(&value).is_ok_and(|again| again == bytes))
    }

    fn same(bytes: &[u8]) {
        assert_eq!(is_canonical(bytes), reference(bytes), "{}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn it_agrees_with_the_serializer_on_every_edge() {
        for text in [
            "",
            "{}",
            "[]",
            "null",
            "nul",
            "0",
            "-0",
            "-1",
            "01",
            "1.0",
            "1e2",
            "9007199254740991",
            "9007199254740992",
            "-9007199254740991",
            "-9007199254740992",
            "18446744073709551616",
            "-",
            "\"\"",
            "\"a",
            "\"\\u001f\"",
            "\"\\u001F\"",
            "\"\\u0008\"",
            "\"\\b\"",
            "\"\\/\"",
            "\"/\"",
            "\"\\u0041\"",
            "\"\u{7f}\"",
            "\"\n\"",
            "\"grüße ☂ 😀\"",
            "\"\\ud83d\\ude00\"",
            "{\"a\":1,\"b\":[2]}",
            "{\"b\":1,\"a\":1}",
            "{\"a\":1,\"a\":1}",
            "{\"a\": 1}",
            "{\"a\":1,}",
            "[1,]",
            "[1 ]",
            " 1",
            "1 ",
            "{\"\u{e000}\":1,\"😀\":1}",
            "{\"😀\":1,\"\u{e000}\":1}",
            "{\"\\n\":1,\"a\":1}",
            "{\"a\":1,\"\\n\":1}",
            "{\"é\":1,\"z\":1}",
            "{\"z\":1,\"é\":1}",
            "{1:1}",
            "tru",
            "truefalse",
        ] {
            same(text.as_bytes());
        }
        same(b"\"\xff\"");
        for depth in [126, 127, 128, 129, 5000] {
            same(format!("{}{}", "[".repeat(depth), "]".repeat(depth)).as_bytes());
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-(1i64 << 54)..1 << 54).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(any::<String>(), inner, 0..6).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_serializer(value in value(), at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = canonical(&value).unwrap();
            same(&bytes);
            same(serde_json::to_string_pretty(&value).unwrap().as_bytes());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            same(&bytes);
            bytes.remove(at);
            same(&bytes);
        }
    }
}
