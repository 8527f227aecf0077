//! The little DER that keys, signatures and certificates need.

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// 1.2.840.113549.1.1.1 rsaEncryption (RFC 8017), with its parameters, which must be NULL.
const RSA_ENCRYPTION: [u8; 13] = [OID, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
/// 1.2.840.113549.1.1.1 rsaEncryption (RFC 8017).
pub(super) const OID_RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
/// 1.2.840.113549.1.1.7 id-RSAES-OAEP (RFC 8017), which some makers of TPMs put into certificates of endorsement keys.
pub(super) const OID_RSAES_OAEP: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 7];
/// 1.2.840.10045.2.1 ecPublicKey (RFC 5480).
pub(super) const OID_EC: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
/// 1.2.840.10045.3.1.7 secp256r1 (RFC 5480).
pub(super) const OID_P256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
/// 1.3.132.0.34 secp384r1 (RFC 5480).
pub(super) const OID_P384: [u8; 5] = [0x2b, 0x81, 0x04, 0x00, 0x22];

/// One value of less than 64 KiB: tag, length, parts. Nothing here comes near that size.
fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let [.., high, low] = length.to_be_bytes();
    let mut bytes = vec![tag];
    match (high, low) {
        (0, 0..=0x7f) => bytes.push(low),
        (0, _) => bytes.extend([0x81, low]),
        _ => bytes.extend([0x82, high, low]),
    }
    bytes.extend(parts.iter().copied().flatten());
    bytes
}

/// The INTEGER of an unsigned big-endian number.
fn unsigned(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    let digits = number.get(zeros..).unwrap_or_default();
    // A number is signed in DER: a zero in front keeps it positive, and is all there is of zero.
    let sign: &[u8] = if digits.first().is_none_or(|&byte| byte >= 0x80) { &[0] } else { &[] };
    value(INTEGER, &[sign, digits])
}

/// A SEQUENCE of two numbers: `Ecdsa-Sig-Value` (RFC 3279) or `RSAPublicKey` (RFC 8017).
pub(super) fn two_numbers(first: &[u8], second: &[u8]) -> Vec<u8> {
    value(SEQUENCE, &[&unsigned(first), &unsigned(second)])
}

fn key_info(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    value(SEQUENCE, &[&value(SEQUENCE, &[algorithm]), &value(BIT_STRING, &[&[0], key])])
}

/// The SubjectPublicKeyInfo of an RSA key, given its `RSAPublicKey`.
pub(super) fn rsa_key_info(rsa_public_key: &[u8]) -> Vec<u8> {
    key_info(&RSA_ENCRYPTION, rsa_public_key)
}

/// The SubjectPublicKeyInfo of an elliptic key, given its uncompressed point.
pub(super) fn ec_key_info(curve: &[u8], point: &[u8]) -> Vec<u8> {
    key_info(&[value(OID, &[&OID_EC]), value(OID, &[curve])].concat(), point)
}

/// Splits off one value with this tag; `None` if it is not there in strict DER of less than 64 KiB.
fn take(input: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (length, rest) = match rest {
        [short @ 0..=0x7f, rest @ ..] => (usize::from(*short), rest),
        [0x81, low @ 0x80..=0xff, rest @ ..] => (usize::from(*low), rest),
        [0x82, high @ 1..=0xff, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    if tag == wanted { rest.split_at_checked(length) } else { None }
}

/// What a SubjectPublicKeyInfo (RFC 5280, 4.1.2.7) says.
pub(super) struct KeyInfo<'a> {
    /// The identifier of the algorithm.
    pub(super) algorithm: &'a [u8],
    /// The parameters of the algorithm.
    pub(super) parameters: &'a [u8],
    /// The content of the bit string.
    pub(super) key: &'a [u8],
}

impl KeyInfo<'_> {
    /// Reads it, without anything after its end.
    pub(super) fn parse(spki: &[u8]) -> Option<KeyInfo<'_>> {
        let (content, []) = take(spki, SEQUENCE)? else { return None };
        let (identifier, rest) = take(content, SEQUENCE)?;
        let (bits, []) = take(rest, BIT_STRING)? else { return None };
        let (algorithm, parameters) = take(identifier, OID)?;
        // The first byte counts the bits that are not used at the end. A key has whole bytes.
        let (0, key) = bits.split_first().map(|(&unused, key)| (unused, key))? else { return None };
        Some(KeyInfo { algorithm, parameters, key })
    }

    /// Whether the parameters are this identifier and nothing else.
    pub(super) fn has_curve(&self, curve: &[u8]) -> bool {
        take(self.parameters, OID).is_some_and(|(oid, rest)| oid == curve && rest.is_empty())
    }
}

/// The certificate at the front of `bytes`, without the padding that often follows it in the memory of a TPM.
pub(super) fn first_sequence(bytes: &[u8]) -> Option<&[u8]> {
    let (_, rest) = take(bytes, SEQUENCE)?;
    bytes.get(..bytes.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::{KeyInfo, OID_P256, OID_RSA, ec_key_info, first_sequence, rsa_key_info, two_numbers};

    #[test]
    fn numbers_are_shortest_and_positive() {
        assert_eq!(two_numbers(&[0, 0, 0x7f], &[0x80]), [0x30, 7, 2, 1, 0x7f, 2, 2, 0, 0x80]);
        assert_eq!(two_numbers(&[], &[0, 0]), [0x30, 6, 2, 1, 0, 2, 1, 0]);
        assert_eq!(two_numbers(&[1; 200], &[1])[..7], [0x30, 0x81, 206, 2, 0x81, 200, 1]);
        assert_eq!(two_numbers(&[1; 300], &[1])[..4], [0x30, 0x82, 1, 51]);
    }

    #[test]
    fn key_infos_can_be_read_again() {
        let spki = ec_key_info(&OID_P256, &[4; 65]);
        let info = KeyInfo::parse(&spki).unwrap();
        assert!(info.has_curve(&OID_P256) && !info.has_curve(&OID_RSA));
        assert_eq!(info.key, [4; 65]);
        let spki = rsa_key_info(&[7; 270]);
        let info = KeyInfo::parse(&spki).unwrap();
        assert_eq!((info.algorithm, info.parameters, info.key), (&OID_RSA[..], &[5u8, 0][..], &[7; 270][..]));
        for cut in 0..spki.len() {
            assert!(KeyInfo::parse(&spki[..cut]).is_none());
        }
        assert!(KeyInfo::parse(&[&spki[..], &[0]].concat()).is_none());
    }

    #[test]
    fn padding_is_cut_off() {
        assert_eq!(first_sequence(&[0x30, 1, 9, 0xff, 0xff]), Some(&[0x30, 1, 9][..]));
        assert_eq!(first_sequence(&[0x31, 1, 9]), None);
        assert_eq!(first_sequence(&[0x30, 0x81, 1, 9]), None, "the length must be the shortest");
        assert_eq!(first_sequence(&[]), None);
    }
}
