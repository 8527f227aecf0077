//! Shows where a program came from: a UEFI device path as short text (UEFI Specification, chapter 10).
//!
//! No digest vouches for a path. It is for people to read, and nothing is decided by it.

use super::bytes::Bytes;
use super::data;

/// Steps of a path that are shown.
const MAX_NODES: usize = 16;
/// Bytes of a step's own header: type, kind within the type, length.
const HEADER: usize = 4;

/// The path as text, as in `PciRoot(0)/Pci(1,0)/HD(1)/\EFI\BOOT\BOOTX64.EFI`.
pub(super) fn text(path: &[u8]) -> String {
    let mut bytes = Bytes(path);
    let mut steps = Vec::new();
    while let Some((kind, sub_kind, data)) = node(&mut bytes) {
        if kind == 0x7f || steps.len() == MAX_NODES {
            break;
        }
        steps.push(step(kind, sub_kind, data).unwrap_or_else(|| format!("Path({kind},{sub_kind})")));
    }
    if steps.is_empty() { "no path".to_owned() } else { data::clean(&steps.join("/")) }
}

fn node<'a>(bytes: &mut Bytes<'a>) -> Option<(u8, u8, &'a [u8])> {
    let (kind, sub_kind, length) = (bytes.u8()?, bytes.u8()?, usize::from(bytes.u16()?));
    Some((kind, sub_kind, bytes.take(length.checked_sub(HEADER)?)?))
}

fn step(kind: u8, sub_kind: u8, data: &[u8]) -> Option<String> {
    let mut data = Bytes(data);
    Some(match (kind, sub_kind) {
        (1, 1) => {
            let (function, device) = (data.u8()?, data.u8()?);
            format!("Pci({device:x},{function:x})")
        }
        (1, 3) => "Memory".to_owned(),
        (1, 4) => format!("Hardware({})", guid(data.array()?)),
        (2, 1) => {
            let (id, number) = (data.u32()?, data.u32()?);
            // PNP0A03 is the root of PCI, PNP0A08 that of PCI Express.
            if [0x0a03_41d0, 0x0a08_41d0].contains(&id) { format!("PciRoot({number:x})") } else { format!("Acpi({id:08x},{number:x})") }
        }
        (3, 2) => "Scsi".to_owned(),
        (3, 5) => "Usb".to_owned(),
        (3, 11) => "Network".to_owned(),
        (3, 18) => "Sata".to_owned(),
        (3, 23) => "NVMe".to_owned(),
        (3, 24) => format!("Uri({})", data::text(data.0)),
        (4, 1) => format!("HD({})", data.u32()?),
        (4, 2) => "CD".to_owned(),
        (4, 3) => format!("Media({})", guid(data.array()?)),
        (4, 4) => data::text(data.0),
        (4, 6) => format!("FirmwareFile({})", guid(data.array()?)),
        (4, 7) => format!("Firmware({})", guid(data.array()?)),
        _ => return None,
    })
}

/// A GUID as people write it: its first three parts lie in memory with their last byte first.
fn guid(bytes: [u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    let digits = |bytes: &[u8]| super::hex(bytes);
    format!("{}-{}-{}-{}-{}", digits(&[d, c, b, a]), digits(&[f, e]), digits(&[h, g]), digits(&rest[..2]), digits(&rest[2..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_short_text_without_commands_for_a_terminal() {
        let disk = [&[2, 1, 12, 0, 0xd0, 0x41, 0x03, 0x0a, 0, 0, 0, 0, 1, 1, 6, 0, 2, 0x1f][..], &[0x7f, 0xff, 4, 0]].concat();
        assert_eq!(text(&disk), "PciRoot(0)/Pci(1f,2)");
        let file = [&[4, 4, 10, 0, b'\\', 0, 0x1b, 0, 0, 0][..], &[9, 9, 4, 0]].concat();
        assert_eq!(text(&file), "\\?/Path(9,9)");
        assert_eq!(text(&[]), "no path");
        assert_eq!(text(&[4, 4, 200, 0, 1]), "no path", "a step that ends early");
        assert_eq!(text(&[4, 4, 3, 0, 1]), "no path", "a step shorter than its own header");
        assert!(text(&[9, 9, 4, 0].repeat(5000)).len() <= 200);
        assert_eq!(
            guid([0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0, 0xe0, 0x98, 3, 0x2b, 0x8c]),
            "8be4df61-93ca-11d2-aa0d-00e098032b8c"
        );
    }
}
