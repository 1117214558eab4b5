//! A PKI as PEM files, and credentials read back from such files.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{Credential, Pki, PkiError};

/// Writes `ca.pem` (what clients trust), `server.pem`, `server.key`, `client-ca.pem` (what the
/// terminator trusts), `client-crl.pem` (whom it must not let in), a `.pem` and `.key` for every client, and `client-issuer.pem` and `.key`, the
/// CA that can make more of them. Keys get mode 0600. Nothing that exists is overwritten.
pub fn write(pki: &Pki, directory: &Path) -> Result<(), PkiError> {
    fs::create_dir_all(directory)
        .map_err(|error| failed(directory, &error, "name a directory that can be made"))?;
    let certificates = |name: &str, chain: &[CertificateDer<'_>]| {
        let text: String = chain.iter().map(|der| encode("CERTIFICATE", der)).collect();
        write_new(&directory.join(name), &text, 0o644)
    };
    certificates("ca.pem", std::slice::from_ref(&pki.server_ca))?;
    certificates("client-ca.pem", std::slice::from_ref(&pki.client_ca))?;
    let lists: String = pki
        .client_crls
        .iter()
        .map(|der| encode("X509 CRL", der))
        .collect();
    write_new(&directory.join("client-crl.pem"), &lists, 0o644)?;
    let clients = pki.clients.iter().chain(&pki.expired);
    let clients = clients.chain(&pki.revoked).chain(&pki.wrong_ca);
    for credential in clients.chain([&pki.server, &pki.client_issuer]) {
        certificates(&format!("{}.pem", credential.name), &credential.chain)?;
        let key = encode("PRIVATE KEY", credential.key.secret_der());
        write_new(
            &directory.join(format!("{}.key", credential.name)),
            &key,
            0o600,
        )?;
    }
    Ok(())
}

/// Reads a chain and its key.
pub fn load_credential(certificate: &Path, key: &Path) -> Result<Credential, PkiError> {
    let chain = load_certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| unreadable(key, &error, "expected a PEM private key"))?;
    let name = certificate
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Ok(Credential {
        name,
        spiffe_id: None,
        chain,
        key,
    })
}

/// Reads every `KIND-N.pem` with a `KIND-N.key` beside it, in the order of their numbers.
pub fn load_pool(directory: &Path, kind: &str) -> Result<Vec<Credential>, PkiError> {
    let entries = fs::read_dir(directory)
        .map_err(|error| failed(directory, &error, "name a directory made by `pki DIR`"))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Not `client-issuer.pem`.
            let numbered = name
                .strip_prefix(kind)
                .and_then(|name| name.strip_prefix('-'));
            let number = numbered.and_then(|name| name.strip_suffix(".pem"));
            number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        })
        .filter(|path| path.with_extension("key").exists())
        .collect();
    paths.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    if paths.is_empty() {
        return Err(PkiError::File {
            path: directory.display().to_string(),
            reason: format!("holds no {kind}-N.pem with its {kind}-N.key"),
            remedy: "make them with `ringgate-loadgen pki DIR` and how many of each are wanted",
        });
    }
    paths
        .iter()
        .map(|path| load_credential(path, &path.with_extension("key")))
        .collect()
}

/// Reads trust anchors.
pub fn load_anchors(path: &Path) -> Result<rustls::RootCertStore, PkiError> {
    let mut roots = rustls::RootCertStore::empty();
    for anchor in load_certificates(path)? {
        roots.add(anchor).map_err(|error| PkiError::File {
            path: path.display().to_string(),
            reason: error.to_string(),
            remedy: "expected CA certificates",
        })?;
    }
    Ok(roots)
}

fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    const REMEDY: &str = "expected PEM certificates";
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(path, &error, REMEDY))?;
    if certificates.is_empty() {
        return Err(unreadable(path, &pem::Error::NoItemsFound, REMEDY));
    }
    Ok(certificates)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| failed(path, &error, "name a directory without a PKI in it"))
}

/// RFC 7468: base64 in lines of 64 between BEGIN and END.
fn encode(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let byte = |index: usize| group.get(index).copied().map_or(0, u32::from);
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for position in 0..4 {
                let symbol = ALPHABET[(bits >> (18 - 6 * position) & 63) as usize];
                text.push(if position > group.len() {
                    '='
                } else {
                    char::from(symbol)
                });
            }
        }
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn failed(path: &Path, error: &std::io::Error, remedy: &'static str) -> PkiError {
    PkiError::File {
        path: path.display().to_string(),
        reason: error.to_string(),
        remedy,
    }
}

fn unreadable(path: &Path, error: &pem::Error, remedy: &'static str) -> PkiError {
    PkiError::File {
        path: path.display().to_string(),
        reason: error.to_string(),
        remedy,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::pki::PkiOptions;

    pub(crate) struct Directory(pub(crate) PathBuf);

    impl Directory {
        pub(crate) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ringgate-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_written_loads_again() {
        let directory = Directory::new("pki-round-trip");
        let options = PkiOptions {
            clients: 11,
            intermediate: true,
            wrong_ca: 1,
            ..PkiOptions::default()
        };
        let pki = Pki::generate(&options).unwrap();
        write(&pki, &directory.0).unwrap();

        let pool = load_pool(&directory.0, "client").unwrap();
        let fingerprints =
            |all: &[Credential]| all.iter().map(Credential::fingerprint).collect::<Vec<_>>();
        assert_eq!(
            fingerprints(&pool),
            fingerprints(&pki.clients),
            "in the order of the numbers"
        );
        assert_eq!(pool[10].chain, pki.clients[10].chain);
        assert_eq!(pool[10].key.secret_der(), pki.clients[10].key.secret_der());
        assert_eq!(load_anchors(&directory.0.join("ca.pem")).unwrap().len(), 1);
        let mode = fs::metadata(directory.0.join("client-3.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_existing_pki_is_not_overwritten() {
        let directory = Directory::new("pki-existing");
        let pki = Pki::generate(&PkiOptions::default()).unwrap();
        write(&pki, &directory.0).unwrap();
        let error = write(&pki, &directory.0).unwrap_err().to_string();
        assert!(
            error.contains("ca.pem") && error.contains("without a PKI"),
            "{error}"
        );
    }

    #[test]
    fn base64_pads_as_rfc_4648_says() {
        for (bytes, text) in [
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert!(
                encode("X", bytes.as_bytes()).contains(&format!("\n{text}\n")),
                "{bytes}"
            );
        }
    }
}
