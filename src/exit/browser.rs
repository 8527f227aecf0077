//! Browsers that take a throw-away profile, and how they are told to use a proxy for everything.

use super::guard::Scratch;
use crate::error::{Code, Error, Result};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

const CHROMIUM: [&str; 5] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "brave-browser"];
const FIREFOX: [&str; 3] = ["firefox", "firefox-esr", "librewolf"];

/// The command that opens a browser through `proxy`, and the profile that is gone with it.
pub(super) fn command(proxy: SocketAddr) -> Result<(Vec<OsString>, Scratch)> {
    let folder = std::env::temp_dir().join(format!("portdistrict-try-{}", std::process::id()));
    if let Some(program) = CHROMIUM.into_iter().find(|name| on_path(name)) {
        return Ok((chromium(program, proxy, &folder), Scratch { folder, file: None }));
    }
    if let Some(program) = FIREFOX.into_iter().find(|name| on_path(name)) {
        let file = Some(("user.js".to_owned(), firefox_preferences(proxy)));
        let words = [program.into(), "--no-remote".into(), "--profile".into(), folder.clone().into_os_string()];
        return Ok((words.into(), Scratch { folder, file }));
    }
    Err(Error::new(Code::Precondition, "no browser was found here that takes a throw-away profile")
        .hint(format!("install chromium or firefox, or leave out --browser and set the SOCKS5 proxy {proxy} in your browser by hand")))
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn chromium(program: &str, proxy: SocketAddr, profile: &Path) -> Vec<OsString> {
    let flags = [
        format!("--user-data-dir={}", profile.display()),
        format!("--proxy-server=socks5://{proxy}"),
        // Chromium looks names up itself for prefetching unless it is told that there are none.
        format!("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {}", proxy.ip()),
        // Else WebRTC would show the direct address.
        "--force-webrtc-ip-handling-policy=disable_non_proxied_udp".to_owned(),
        "--no-first-run".to_owned(),
        "--no-default-browser-check".to_owned(),
    ];
    std::iter::once(program.into()).chain(flags.into_iter().map(OsString::from)).collect()
}

fn firefox_preferences(proxy: SocketAddr) -> String {
    let preferences = [
        ("network.proxy.type", "1".to_owned()),
        ("network.proxy.socks", format!("\"{}\"", proxy.ip())),
        ("network.proxy.socks_port", proxy.port().to_string()),
        ("network.proxy.socks_version", "5".to_owned()),
        ("network.proxy.socks_remote_dns", "true".to_owned()),
        ("network.proxy.no_proxies_on", "\"\"".to_owned()),
        ("network.trr.mode", "5".to_owned()),
        // WebRTC would show the direct address.
        ("media.peerconnection.enabled", "false".to_owned()),
        ("browser.shell.checkDefaultBrowser", "false".to_owned()),
    ];
    preferences.iter().map(|(name, value)| format!("user_pref(\"{name}\", {value});\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_never_looked_up_outside_the_tunnel() {
        let proxy = SocketAddr::from(([127, 0, 0, 1], 1080));
        let words: Vec<_> = chromium("chromium", proxy, Path::new("/p")).into_iter().map(|w| w.into_string().unwrap()).collect();
        assert!(words.contains(&"--proxy-server=socks5://127.0.0.1:1080".to_owned()));
        assert!(words.iter().any(|word| word.contains("MAP * ~NOTFOUND")));
        let preferences = firefox_preferences(proxy);
        assert!(preferences.contains("user_pref(\"network.proxy.socks_remote_dns\", true);\n"));
        assert!(preferences.contains("user_pref(\"network.proxy.socks\", \"127.0.0.1\");\n"));
    }
}
