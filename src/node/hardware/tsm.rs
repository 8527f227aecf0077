//! Reports of confidential guests by the kernel's one interface for all of them, `configfs-tsm` (Documentation/ABI/testing/configfs-tsm).

use crate::attest::SnpEvidence;
use crate::error::{Code, Doing, Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel takes requests.
pub(super) const REPORTS: &str = "/sys/kernel/config/tsm/report";
/// The provider whose reports this program knows.
const SEV: &str = "sev_guest";
/// Another request may come between writing and reading; then the kernel says so, and it is done again.
const ATTEMPTS: usize = 5;

/// Asks for reports in one folder of the kernel's.
pub(super) struct Tsm {
    reports: PathBuf,
}

impl Tsm {
    /// The kernel's folder for requests, if a processor of the right kind answers them. Elsewhere the folder may be there, too.
    pub(super) fn find(reports: &Path) -> Option<Tsm> {
        let provider = Request::make(reports).ok()?.read("provider").ok()?;
        (provider.trim_ascii() == SEV.as_bytes()).then(|| Tsm { reports: reports.to_owned() })
    }

    /// A report that holds these 64 bytes, and the certificates that the host gave with it.
    pub(super) fn report(&self, data: &[u8; 64]) -> Result<SnpEvidence> {
        let request = Request::make(&self.reports)?;
        for _ in 0..ATTEMPTS {
            request.write("inblob", data)?;
            let before = request.read("generation")?;
            let report = request.read("outblob")?;
            // Hosts that keep no certificates give none.
            let certificates = request.read("auxblob").unwrap_or_default();
            if request.read("generation")? == before {
                return Ok(SnpEvidence { report, certificates });
            }
        }
        Err(Error::new(Code::Failed, "the kernel gave no report that belongs to its request").hint("try again in a moment"))
    }
}

/// A folder of one request; the kernel fills it, and removes it with what is in it.
struct Request(PathBuf);

impl Request {
    fn make(reports: &Path) -> Result<Request> {
        let folder = reports.join(format!("portdistrict-{}", std::process::id()));
        let _ = fs::remove_dir(&folder);
        fs::create_dir(&folder).doing("make", folder.display())?;
        Ok(Request(folder))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let file = self.0.join(name);
        fs::write(&file, bytes).doing("write", file.display())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let file = self.0.join(name);
        fs::read(&file).doing("read", file.display())
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
