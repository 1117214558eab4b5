//! A directory of its own for a test, with a configuration that is sound until the test breaks it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ringgate::clock::Clock;
use ringgate::config::{ConfigError, render};
use ringgate::snapshot::Snapshot;

use crate::pem::pem;
use crate::pki::{Ca, Leaf, NOW, client};
use crate::{FRONT, pki};

/// Removed when dropped.
pub struct Scratch {
    directory: PathBuf,
    pub ca: Ca,
}

impl Scratch {
    /// `server.pem` and `server.key`, `clients-ca.pem`, and `ringgate.toml` with [`FRONT`].
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "ringgate-config-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        let scratch = Self {
            directory,
            ca: Ca::root("clients' CA"),
        };
        scratch.write(
            "clients-ca.pem",
            pem("CERTIFICATE", &scratch.ca.certificate),
        );
        scratch.write_leaf("server", &scratch.server(|_| {}));
        scratch.write("ringgate.toml", FRONT);
        scratch
    }

    pub fn server(&self, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Leaf {
        let mut params = client("server");
        params.subject_alt_names = vec![pki::dns("server.example")];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        self.ca.issue(params)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// `name`.pem, and `name`.key with mode 0600.
    pub fn write_leaf(&self, name: &str, leaf: &Leaf) {
        self.write(
            &format!("{name}.pem"),
            pem("CERTIFICATE", &leaf.certificate),
        );
        self.write(&format!("{name}.key"), leaf.key.serialize_pem());
        self.set_mode(&format!("{name}.key"), 0o600);
    }

    pub fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn load(&self) -> Result<Snapshot, Vec<ConfigError>> {
        let clock = Clock::manual(Duration::from_secs(NOW.unsigned_abs()));
        Snapshot::load_file(&self.path("ringgate.toml"), &clock).map(|(_, snapshot)| snapshot)
    }

    #[track_caller]
    pub fn loaded(&self) -> Snapshot {
        self.load()
            .unwrap_or_else(|errors| panic!("{}", render(&errors)))
    }

    /// What is said of a configuration that must not load.
    #[track_caller]
    pub fn said(&self) -> String {
        match self.load() {
            Ok(_) => panic!("loaded"),
            Err(errors) => render(&errors),
        }
    }

    /// Asserts that loading fails for one thing at `line` of ringgate.toml, whose error has these
    /// parts.
    #[track_caller]
    pub fn assert_error(&self, line: usize, parts: &[&str]) {
        let said = self.said();
        assert_eq!(
            said.matches("remedy: ").count(),
            1,
            "one error is expected, not:\n{said}"
        );
        let start = format!("{}:{line}: ", self.path("ringgate.toml").display());
        assert!(
            said.starts_with(&start),
            "`{start}` does not start:\n{said}"
        );
        for part in parts {
            assert!(said.contains(part), "`{part}` is not in:\n{said}");
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Whether this user may read what its mode forbids, as root may.
pub fn modes_do_not_bind(path: &Path) -> bool {
    fs::File::open(path).is_ok()
}
