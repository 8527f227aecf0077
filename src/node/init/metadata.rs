//! Where a machine learns what it is to be: from its hypervisor, from a labelled disk, or from its cloud.

use super::{DISK_MODULES, disk, http, system};
use crate::error::{Code, Error, Result};
use crate::node::hardware::VENDOR;
use crate::node::log::Log;
use crate::owner::metadata::{MAX, Metadata};
use std::path::Path;
use std::time::Duration;

/// QEMU's own way of handing in a file (QEMU: specs/fw_cfg).
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/portdistrict/config/raw";
/// The clouds' metadata servers share an address.
const SERVER: &str = "http://169.254.169.254";
/// Name of the attribute on Google's.
const ATTRIBUTE: &str = "/computeMetadata/v1/instance/attributes/portdistrict-config";
/// The same, answered when anything of it changes.
const WAIT: &str = "/computeMetadata/v1/instance/attributes/?recursive=true&wait_for_change=true&timeout_sec=240";
/// Longer than Google's server may keep one waiting.
const WAIT_PATIENCE: Duration = Duration::from_secs(270);
/// Hetzner's place for what its user hands in.
const USER_DATA: &str = "/hetzner/v1/userdata";
/// For one question.
const PATIENCE: Duration = Duration::from_secs(10);
/// Attempts, with a pause between them: a metadata server may come up after its machine.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(2);

/// What needs no network: none if the cloud is to be asked.
pub(super) fn at_hand(log: &Log) -> Result<Option<Metadata>> {
    if let Ok(bytes) = std::fs::read(FW_CFG) {
        return Metadata::parse("the hypervisor", &bytes).map(Some);
    }
    if Cloud::here().is_some() {
        return Ok(None);
    }
    system::load_modules(Path::new(DISK_MODULES))?;
    match disk::find()? {
        Some((name, bytes)) => {
            log.event("metadata.found").with("disk", name.as_str()).write();
            Metadata::parse(&format!("the disk {name}"), &bytes).map(Some)
        }
        None => Err(Error::new(Code::Precondition, "nobody tells this machine what to be: it has no metadata")
            .because(format!(
                "no file from the hypervisor, no cloud that is known here, no disk labelled {} among: {}",
                disk::LABEL,
                disk::names().join(" ")
            ))
            .hint("deploy it with portdistrict")),
    }
}

/// A cloud whose metadata server can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cloud {
    Google,
    Hetzner,
}

impl Cloud {
    fn here() -> Option<Cloud> {
        Self::by_vendor(std::fs::read_to_string(VENDOR).ok()?.trim())
    }

    fn by_vendor(vendor: &str) -> Option<Cloud> {
        match vendor {
            "Google" => Some(Cloud::Google),
            "Hetzner" => Some(Cloud::Hetzner),
            _ => None,
        }
    }
}

/// What the cloud says.
pub(super) async fn from_network(log: &Log) -> Result<Metadata> {
    match Cloud::here() {
        Some(Cloud::Google) => google(SERVER, log).await,
        Some(Cloud::Hetzner) => hetzner(SERVER).await,
        None => Err(Error::new(Code::Precondition, "this machine stands in no cloud that is known here")),
    }
}

/// Waits for the attribute if it is not there yet: it may be set after the machine was made.
async fn google(server: &str, log: &Log) -> Result<Metadata> {
    let headers = [("Metadata-Flavor", "Google")];
    loop {
        let answer = patiently(&format!("{server}{ATTRIBUTE}"), &headers).await?;
        if answer.header("metadata-flavor") != Some("Google") {
            return Err(Error::new(Code::Refused, "what answers at the metadata server's address is not Google's metadata server"));
        }
        if answer.status == 200 {
            return Metadata::parse("Google's metadata server", &answer.body);
        }
        log.event("metadata.waiting").with("attribute", "portdistrict-config").write();
        // Whatever it answers, the attribute is looked at again; what fails at once must not spin.
        if http::get(&format!("{server}{WAIT}"), &headers, WAIT_PATIENCE, MAX * 8).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn hetzner(server: &str) -> Result<Metadata> {
    let answer = patiently(&format!("{server}{USER_DATA}"), &[]).await?;
    if answer.status != 200 || answer.body.is_empty() {
        return Err(Error::new(Code::Precondition, "nobody tells this machine what to be: its user data is empty")
            .hint("deploy it with portdistrict"));
    }
    Metadata::parse("Hetzner's metadata server", &answer.body)
}

async fn patiently(url: &str, headers: &[(&'static str, &'static str)]) -> Result<http::Answer> {
    let mut attempt = 1;
    loop {
        match http::get(url, headers, PATIENCE, MAX + 1).await {
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
            Ok(answer) if answer.status >= 500 && attempt < ATTEMPTS => tokio::time::sleep(PAUSE).await,
            Ok(answer) => return Ok(answer),
        }
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::base64;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Answers each connection with the next of these, and says what was asked.
    fn server(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let serve = |answer: String| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8(request).unwrap().to_lowercase()
            };
            answers.into_iter().map(serve).collect()
        });
        (url, thread)
    }

    fn answer(status: &str, headers: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
    }

    fn document() -> String {
        format!(r#"{{"portdistrict":1,"label":"vm","owner":"{0}","cover":"{0}","made_at":1}}"#, base64(&[1; 32]))
    }

    #[tokio::test]
    async fn google_is_asked_by_its_rules_and_waited_for() {
        let flavor = "Metadata-Flavor: Google\r\n";
        let (url, thread) =
            server(vec![answer("404 Not Found", flavor, ""), answer("200 OK", flavor, "{}"), answer("200 OK", flavor, &document())]);
        let found = google(&url, &Log::in_memory()).await.unwrap();
        assert_eq!(found.label.as_str(), "vm");
        let asked = thread.join().unwrap();
        assert!(asked.iter().all(|request| request.contains("metadata-flavor: google")), "{asked:?}");
        assert!(asked[1].contains("wait_for_change=true"));
    }

    #[tokio::test]
    async fn somebody_else_at_its_address_is_refused() {
        let (url, thread) = server(vec![answer("200 OK", "", &document())]);
        assert_eq!(google(&url, &Log::in_memory()).await.err().unwrap().code(), Code::Refused);
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn hetzner_hands_over_user_data() {
        let (url, thread) = server(vec![answer("200 OK", "", &document())]);
        assert_eq!(hetzner(&url).await.unwrap().made_at, 1);
        assert!(thread.join().unwrap()[0].starts_with("get /hetzner/v1/userdata "));
        let (url, thread) = server(vec![answer("404 Not Found", "", "no user data")]);
        assert!(hetzner(&url).await.err().unwrap().message().contains("user data is empty"));
        thread.join().unwrap();
    }

    #[test]
    fn vendors_are_known_by_their_exact_names() {
        assert_eq!(Cloud::by_vendor("Google"), Some(Cloud::Google));
        assert_eq!(Cloud::by_vendor("Hetzner"), Some(Cloud::Hetzner));
        assert_eq!(Cloud::by_vendor("QEMU"), None);
    }
}
