//! Reports of confidential guests by the kernel's one interface for all of them, `configfs-tsm` (Documentation/ABI/testing/configfs-tsm).

use crate::attest::SnpEvidence;
use crate::attest::evidence::MAX_CERTIFICATES;
use crate::attest::snp::REPORT_BYTES;
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
        Request::make(&self.reports)?.report(data)
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

    fn report(&self, data: &[u8; 64]) -> Result<SnpEvidence> {
        for _ in 0..ATTEMPTS {
            self.write("inblob", data)?;
            let before = self.read("generation")?;
            let report = self.read("outblob")?;
            // Hosts that keep no certificates give none; more than evidence holds would make it unreadable.
            let certificates = self.read("auxblob").ok().filter(|table| table.len() <= MAX_CERTIFICATES).unwrap_or_default();
            if self.read("generation")? != before {
                continue;
            }
            if report.len() != REPORT_BYTES {
                return Err(Error::new(
                    Code::Protocol,
                    format!("the kernel gave a report of {} bytes, wanted {REPORT_BYTES}", report.len()),
                )
                .hint("restart the machine; if it stays, use another kernel"));
            }
            return Ok(SnpEvidence { report, certificates });
        }
        Err(Error::new(Code::Failed, "the kernel gave no report that belongs to its request").hint("try again in a moment"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::thread::{JoinHandle, spawn};
    use tempfile::TempDir;

    const NAMES: [&str; 4] = ["inblob", "generation", "outblob", "auxblob"];

    /// One round of what the kernel answers: generation before, report, certificates, generation after.
    type Round = (&'static str, Vec<u8>, Vec<u8>, &'static str);

    /// A folder whose files answer as the kernel's do, each when it is opened, and what was written into it. Pipes make it certain:
    /// whoever opens one waits for the other side.
    fn kernel(rounds: Vec<Round>) -> (TempDir, JoinHandle<Vec<Vec<u8>>>) {
        let folder = TempDir::new().unwrap();
        for name in NAMES {
            mknodat(CWD, folder.path().join(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        }
        let at = folder.path().to_owned();
        let answer = move |(before, report, certificates, after): Round| {
            let asked = fs::read(at.join("inblob")).unwrap();
            for (name, bytes) in
                [("generation", before.as_bytes()), ("outblob", &report), ("auxblob", &certificates), ("generation", after.as_bytes())]
            {
                fs::write(at.join(name), bytes).unwrap();
            }
            asked
        };
        (folder, spawn(move || rounds.into_iter().map(answer).collect()))
    }

    #[test]
    fn a_report_is_the_answer_to_its_own_question() {
        let good = vec![7; REPORT_BYTES];
        let (folder, kernel) = kernel(vec![("1\n", good.clone(), vec![8; 5000], "1\n")]);
        let evidence = Request(folder.path().to_owned()).report(&[3; 64]).unwrap();
        assert_eq!((evidence.report, evidence.certificates), (good, vec![8; 5000]));
        assert_eq!(kernel.join().unwrap(), [vec![3; 64]]);
    }

    #[test]
    fn more_certificates_than_evidence_holds_are_left_out() {
        let good = vec![7; REPORT_BYTES];
        let (folder, kernel) = kernel(vec![("1\n", good.clone(), vec![8; MAX_CERTIFICATES + 1], "1\n")]);
        let evidence = Request(folder.path().to_owned()).report(&[3; 64]).unwrap();
        assert_eq!((evidence.report, evidence.certificates), (good, vec![]));
        kernel.join().unwrap();
    }

    #[test]
    fn when_somebody_else_asked_in_between_it_is_asked_again() {
        let (old, good) = (vec![1; REPORT_BYTES], vec![7; REPORT_BYTES]);
        // Even cut off: it belongs to another question.
        let rounds = vec![("1\n", old, vec![], "2\n"), ("3\n", vec![1; 5], vec![], "4\n"), ("5\n", good.clone(), vec![], "5\n")];
        let (folder, kernel) = kernel(rounds);
        assert_eq!(Request(folder.path().to_owned()).report(&[3; 64]).unwrap().report, good);
        assert_eq!(kernel.join().unwrap(), [vec![3; 64], vec![3; 64], vec![3; 64]]);
    }

    #[test]
    fn it_is_not_asked_for_ever() {
        let round = || ("1\n", vec![1; REPORT_BYTES], vec![], "2\n");
        let (folder, kernel) = kernel((0..ATTEMPTS).map(|_| round()).collect());
        let error = Request(folder.path().to_owned()).report(&[3; 64]).unwrap_err();
        assert!(error.message().contains("no report that belongs to its request") && error.hint_text().is_some());
        assert_eq!(kernel.join().unwrap().len(), ATTEMPTS);
    }

    #[test]
    fn a_report_that_was_cut_off_is_none() {
        for length in [0, REPORT_BYTES - 1, REPORT_BYTES + 1] {
            let (folder, kernel) = kernel(vec![("1\n", vec![1; length], vec![], "1\n")]);
            let error = Request(folder.path().to_owned()).report(&[3; 64]).unwrap_err();
            assert_eq!(
                (error.code(), error.message()),
                (Code::Protocol, &*format!("the kernel gave a report of {length} bytes, wanted 1184"))
            );
            kernel.join().unwrap();
        }
    }

    #[test]
    fn a_folder_without_requests_is_nobody() {
        let folder = TempDir::new().unwrap();
        assert!(Tsm::find(folder.path()).is_none(), "a request without a provider");
        assert!(Tsm::find(&folder.path().join("none")).is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    }
}
