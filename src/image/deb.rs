//! Reads Debian packages: an `ar` archive that holds two tar archives (deb(5)). What is in one is bounded, never trusted.

use crate::error::{Code, Error, Result};
use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};

/// What every `ar` archive begins with.
const AR_MAGIC: &[u8] = b"!<arch>\n";
/// Bytes of one `ar` header.
const AR_HEADER: usize = 60;
/// More than a kernel package unpacks to; a bomb ends here.
const MAX_UNPACKED: u64 = 1024 * 1024 * 1024;
/// More than the file that names a package needs.
const MAX_CONTROL: u64 = 1024 * 1024;

/// A package: what it says it is, and its packed files.
pub struct Deb<'a> {
    /// Its name, as in `linux-image-6.12-cloud-amd64`.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Names of the packages that it depends on, without versions and alternatives.
    pub depends: Vec<String>,
    data: (&'a str, &'a [u8]),
}

impl<'a> Deb<'a> {
    /// Reads the frame of a package; its files stay packed. `name` is for messages.
    pub fn parse(name: &str, bytes: &'a [u8]) -> Result<Deb<'a>> {
        let members = members(bytes).ok_or_else(|| damaged(name, "it is not an ar archive, or it ends early"))?;
        let find = |prefix: &str| members.iter().copied().find(|(member, _)| member.starts_with(prefix));
        let control = find("control.tar").ok_or_else(|| damaged(name, "control.tar is missing"))?;
        let data = find("data.tar").ok_or_else(|| damaged(name, "data.tar is missing"))?;
        let mut text = None;
        each_file(control, MAX_CONTROL, |path, file| {
            if path == "control" {
                let mut read = String::new();
                file.read_to_string(&mut read)?;
                text = Some(read);
            }
            Ok(())
        })
        .map_err(|error| damaged(name, &error.to_string()))?;
        let fields = fields(&text.ok_or_else(|| damaged(name, "it does not say what it is"))?);
        let field = |key: &str| fields.get(key).cloned().unwrap_or_default();
        let depends = field("Depends").split(',').filter_map(|word| Some(word.split_whitespace().next()?.to_owned())).collect();
        Ok(Deb { package: field("Package"), version: field("Version"), depends, data })
    }

    /// Takes the files that `wanted` turns into a key; the paths it is asked about have no leading `./` or `/`.
    pub fn extract(&self, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut found = BTreeMap::new();
        each_file(self.data, MAX_UNPACKED, |path, file| {
            if wanted(path) {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes)?;
                found.insert(path.to_owned(), bytes);
            }
            Ok(())
        })
        .map_err(|error| damaged(&self.package, &error.to_string()))?;
        Ok(found)
    }
}

fn damaged(name: &str, why: &str) -> Error {
    Error::new(Code::Usage, format!("{name} is no Debian package that can be read: {why}")).hint("fetch it again: apt-get download PACKAGE")
}

/// Names and contents of an `ar` archive; none if it is not one, or ends early.
fn members(bytes: &[u8]) -> Option<Vec<(&str, &[u8])>> {
    let mut rest = bytes.strip_prefix(AR_MAGIC)?;
    let mut members = Vec::new();
    while !rest.is_empty() {
        let (header, after) = rest.split_at_checked(AR_HEADER)?;
        let name = std::str::from_utf8(&header[..16]).ok()?.trim_end().trim_end_matches('/');
        let size: usize = std::str::from_utf8(&header[48..58]).ok()?.trim_end().parse().ok()?;
        let (body, after) = after.split_at_checked(size)?;
        members.push((name, body));
        rest = after.get(size % 2..).unwrap_or_default();
    }
    Some(members)
}

/// Unpacks by the name's end and hands over each regular file.
fn each_file((name, packed): (&str, &[u8]), limit: u64, mut take: impl FnMut(&str, &mut dyn Read) -> io::Result<()>) -> io::Result<()> {
    let packed = Cursor::new(packed);
    let unpacked: Box<dyn Read + '_> = match name.rsplit_once('.').map(|(_, end)| end) {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new(packed)),
        Some("zst") => Box::new(zstd::stream::read::Decoder::new(packed)?),
        Some("tar") => Box::new(packed),
        _ => return Err(io::Error::other(format!("{name} is packed in a way that is not known here"))),
    };
    let mut archive = tar::Archive::new(unpacked.take(limit));
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").trim_start_matches('/').to_owned();
        take(&path, &mut entry)?;
    }
    Ok(())
}

/// `Key: value` lines (deb-control(5)); continuation lines are of no interest here.
fn fields(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| !line.starts_with(' '));
    lines.filter_map(|line| line.split_once(": ")).map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut made = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            made.append_data(&mut header, path, *bytes).unwrap();
        }
        made.into_inner().unwrap()
    }

    fn member(name: &str, bytes: &[u8]) -> Vec<u8> {
        let mut made = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, bytes.len()).into_bytes();
        made.extend_from_slice(bytes);
        made.resize(made.len() + bytes.len() % 2, b'\n');
        made
    }

    fn package() -> Vec<u8> {
        let control = tar(&[("./control", b"Package: x\nVersion: 1-2\nDepends: kmod, linux-base (>= 4) | other\nDescription: a\n b: c\n")]);
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
        xz.write_all(&tar(&[("./usr/a", b"hello"), ("./usr/b", b"world")])).unwrap();
        [
            AR_MAGIC.to_vec(),
            member("debian-binary", b"2.0\n"),
            member("control.tar", &control),
            member("data.tar.xz", &xz.finish().unwrap()),
        ]
        .concat()
    }

    #[test]
    fn a_package_says_what_it_is_and_gives_its_files() {
        let bytes = package();
        let deb = Deb::parse("x.deb", &bytes).unwrap();
        assert_eq!((deb.package.as_str(), deb.version.as_str()), ("x", "1-2"));
        assert_eq!(deb.depends, ["kmod", "linux-base"]);
        assert_eq!(deb.extract(|path| path == "usr/b").unwrap(), BTreeMap::from([("usr/b".to_owned(), b"world".to_vec())]));
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = package();
        for length in 0..bytes.len() - 1 {
            let read = Deb::parse("x.deb", &bytes[..length]).and_then(|deb| deb.extract(|_| true));
            assert!(read.is_err(), "{length} of {}", bytes.len());
        }
    }

    #[test]
    fn other_files_are_no_packages() {
        for bytes in [&b""[..], b"hello", b"!<arch>\n", b"!<arch>\nshort"] {
            let error = Deb::parse("x.deb", bytes).err().unwrap();
            assert!(error.message().starts_with("x.deb is no Debian package") && error.hint_text().is_some());
        }
    }
}
