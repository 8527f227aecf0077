//! Where credentials are found, and what is sent for them. The double in `tests/double` checks signatures and claims.

use super::*;
use std::path::Path;

fn found(variables: &[(&str, &Path)]) -> Result<Auth> {
    let settings = Settings::default();
    let lookup = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_os_str().to_owned());
    Auth::find_in(&settings, &[Scope::Compute, Scope::Storage], &lookup)
}

#[test]
fn the_first_that_is_there_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let user = r#"{"type":"authorized_user","client_id":"i","client_secret":"s","refresh_token":"r","quota_project_id":"p"}"#;
    let config = dir.path().join(".config/gcloud");
    std::fs::create_dir_all(&config).unwrap();
    let default = config.join("application_default_credentials.json");
    std::fs::write(&default, user).unwrap();
    let gcloud = dir.path().join("gcloud");
    std::fs::write(&gcloud, "").unwrap();
    let (home, path, token) = (("HOME", dir.path()), ("PATH", dir.path()), ("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", dir.path()));

    assert!(found(&[home, path, token]).unwrap().to_string().starts_with("an access token"));
    let auth = found(&[home, path]).unwrap();
    assert_eq!((auth.to_string(), auth.project()), (format!("a user's consent ({})", default.display()), Some("p")));
    std::fs::remove_file(&default).unwrap();
    assert_eq!(found(&[home, path]).unwrap().to_string(), format!("the user of {}", gcloud.display()));
    std::fs::remove_file(&gcloud).unwrap();
    let error = found(&[home, path]).err().unwrap();
    assert_eq!((error.code(), error.hint_text()), (Code::Precondition, Some("gcloud auth application-default login")));
}

#[test]
fn a_bad_file_is_named_and_not_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.json");
    for (text, code) in [
        ("{", Code::Precondition),
        (r#"{"type":"magic","private_key":"hidden"}"#, Code::Precondition),
        (r#"{"type":"service_account","private_key":"hidden","client_email":"a@b","token_uri":"https://x"}"#, Code::Precondition),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = found(&[("GOOGLE_APPLICATION_CREDENTIALS", &file)]).err().unwrap();
        assert_eq!(error.code(), code, "{text}");
        assert!(error.hint_text().is_some() && !format!("{error:?}").contains("hidden"), "{error:?}");
    }
}

#[test]
fn a_form_has_no_surprises() {
    assert_eq!(source::form(&[("a", "b c&d=é"), ("e", "-._~")]), "a=b%20c%26d%3D%C3%A9&e=-._~");
}

#[tokio::test]
async fn a_token_from_a_file_is_read_anew_when_it_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "one\n").unwrap();
    let auth = found(&[("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", &file)]).unwrap();
    let token = async || secrecy::ExposeSecret::expose_secret(&auth.token().await.unwrap()).to_owned();
    assert_eq!(token().await, "one");
    std::fs::write(&file, "two\n").unwrap();
    assert_eq!(token().await, "one");
    auth.forget();
    assert_eq!(token().await, "two");
}
