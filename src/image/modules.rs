//! Which kernel modules go into an image, and in what order they must be loaded.
//!
//! Packages hold no list of dependencies (one is made at installation), so each module is asked: its section `.modinfo` names
//! what it needs.

use crate::error::{Code, Error, Result};
use object::{Object, ObjectSection};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

/// More than any module unpacks to.
const MAX_MODULE: u64 = 64 * 1024 * 1024;

/// The modules of a kernel package.
pub(super) struct Modules {
    packed: BTreeMap<String, Vec<u8>>,
    builtin: BTreeSet<String>,
}

/// One module, ready to be loaded.
pub(super) struct Module {
    /// As in `virtio_net`.
    pub name: String,
    /// The ELF object.
    pub object: Vec<u8>,
}

impl Modules {
    /// From the files of a package (`…/virtio_net.ko.xz`, bytes as they are there) and its list `modules.builtin`.
    pub(super) fn new(files: impl IntoIterator<Item = (String, Vec<u8>)>, builtin: &str) -> Self {
        let packed = files.into_iter().filter_map(|(path, bytes)| Some((name_of(&path)?, bytes))).collect();
        Modules { packed, builtin: builtin.lines().filter_map(name_of).collect() }
    }

    /// The wanted modules with all that they need, each after what it needs. What is built into the kernel is left out.
    pub(super) fn closure(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut order = Order { all: self, done: Vec::new(), seen: BTreeSet::new() };
        for name in wanted {
            order.visit(name, None)?;
        }
        Ok(order.done)
    }
}

struct Order<'a> {
    all: &'a Modules,
    done: Vec<Module>,
    seen: BTreeSet<String>,
}

impl Order<'_> {
    /// Depth is bounded by `seen`: a ring of modules ends where it began.
    fn visit(&mut self, name: &str, needed_by: Option<&str>) -> Result<()> {
        let name = name.replace('-', "_");
        if self.all.builtin.contains(&name) || !self.seen.insert(name.clone()) {
            return Ok(());
        }
        let packed = self.all.packed.get(&name).ok_or_else(|| missing(&name, needed_by))?;
        let bad = |why: String| {
            Error::new(Code::Usage, format!("the kernel module {name} cannot be read: {why}"))
                .hint("fetch the kernel package again: apt-get download PACKAGE")
        };
        let object = unpack(packed).map_err(|error| bad(error.to_string()))?;
        for needed in depends(&object).map_err(bad)? {
            self.visit(&needed, Some(&name))?;
        }
        self.done.push(Module { name, object });
        Ok(())
    }
}

fn missing(name: &str, needed_by: Option<&str>) -> Error {
    let error = Error::new(Code::Usage, format!("the kernel package has no module {name}"));
    let error = match needed_by {
        Some(other) => error.because(format!("{other} needs it")),
        None => error.because("a node needs it"),
    };
    error.hint("take a kernel for virtual machines of 6.7 or later: --kernel-deb linux-image-6.12.….deb")
}

/// `kernel/drivers/net/virtio-net.ko.xz` is `virtio_net`.
fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut object = Vec::new();
    match packed {
        [0xfd, b'7', b'z', ..] => liblzma::read::XzDecoder::new(packed).take(MAX_MODULE).read_to_end(&mut object)?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::stream::read::Decoder::new(packed)?.take(MAX_MODULE).read_to_end(&mut object)?,
        _ => {
            object.extend_from_slice(packed);
            0
        }
    };
    Ok(object)
}

/// `depends=a,b` among the strings of `.modinfo`.
fn depends(object: &[u8]) -> Result<Vec<String>, String> {
    let file = object::File::parse(object).map_err(|error| error.to_string())?;
    let info = file.section_by_name(".modinfo").ok_or("it has no section .modinfo")?;
    let info = info.data().map_err(|error| error.to_string())?;
    let line = info.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(b"depends=")).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|error| error.to_string())?;
    Ok(line.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::write::{Object as Made, StandardSegment};
    use object::{Architecture, BinaryFormat, Endianness, SectionKind};

    /// A module that says what it needs.
    fn module(depends: &str) -> Vec<u8> {
        let mut made = Made::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
        let segment = made.segment_name(StandardSegment::Data).to_vec();
        let section = made.add_section(segment, b".modinfo".to_vec(), SectionKind::ReadOnlyData);
        made.append_section_data(section, format!("license=GPL\0depends={depends}\0name=x\0").as_bytes(), 1);
        made.write().unwrap()
    }

    fn names(modules: &Modules, wanted: &[&str]) -> Vec<String> {
        modules.closure(wanted).unwrap().into_iter().map(|module| module.name).collect()
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let files = [("a/net-failover.ko", "failover"), ("b/failover.ko", ""), ("virtio_net.ko", "net_failover,failover,built_in")];
        let modules = Modules::new(files.map(|(path, depends)| (path.to_owned(), module(depends))), "kernel/built-in.ko\n");
        assert_eq!(names(&modules, &["virtio-net", "failover"]), ["failover", "net_failover", "virtio_net"]);
        assert_eq!(names(&modules, &["built_in"]), Vec::<String>::new());
    }

    #[test]
    fn a_ring_ends_where_it_began() {
        let modules = Modules::new([("a.ko", "b"), ("b.ko", "a")].map(|(path, depends)| (path.to_owned(), module(depends))), "");
        assert_eq!(names(&modules, &["a"]), ["b", "a"]);
    }

    #[test]
    fn what_is_missing_is_named_with_who_needs_it() {
        let modules = Modules::new([("a.ko".to_owned(), module("b"))], "");
        let error = modules.closure(&["a"]).err().unwrap();
        assert_eq!((error.message(), error.causes()), ("the kernel package has no module b", &["a needs it".to_owned()][..]));
        assert!(modules.closure(&["c"]).err().unwrap().causes()[0].contains("a node needs it"));
        let damaged = Modules::new([("a.ko".to_owned(), b"noise".to_vec())], "");
        assert!(damaged.closure(&["a"]).err().unwrap().message().contains("module a cannot be read"));
    }
}
