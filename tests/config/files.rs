//! The files that a configuration names: certificates, keys, CAs.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use ringgate::config::render;
use ringgate::limits::{BLOCK_LEN, PEM_BYTES_MAX};

use crate::pem::pem;
use crate::pki::{Ca, DAY, NOW, at, client};
use crate::scratch::{Scratch, modes_do_not_bind};
use crate::{FRONT, front, front_with};

const CERTIFICATE_LINE: usize = 4;
const KEY_LINE: usize = 5;
const CA_LINE: usize = 6;

#[test]
fn a_sound_configuration_loads() {
    let scratch = Scratch::new();
    scratch.write(
        "ringgate.toml",
        front("server_names = \"a.example\"\nname = \"front\""),
    );
    let snapshot = scratch.loaded();
    assert!(snapshot.warnings.is_empty());
    assert_eq!(snapshot.limits.buffer_blocks, (256 << 20) / BLOCK_LEN);
    let [listener] = &snapshot.listeners[..] else {
        panic!("one listener")
    };
    assert_eq!(
        (&*listener.name, &*listener.routes[0].name),
        ("front", "front")
    );
    assert_eq!(listener.routes[0].upstreams.len(), 1);
}

#[test]
fn symlinks_are_followed() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("..data")).unwrap();
    for name in ["server.pem", "server.key", "clients-ca.pem"] {
        fs::rename(scratch.path(name), scratch.path("..data").join(name)).unwrap();
        symlink(format!("..data/{name}"), scratch.path(name)).unwrap();
    }
    scratch.loaded();
    // What counts is the file at the link's end, not the link, which all may read.
    scratch.set_mode("..data/server.key", 0o644);
    scratch.assert_error(KEY_LINE, &["mode 0644"]);
}

#[test]
fn key_open_to_group_or_others() {
    let scratch = Scratch::new();
    for mode in [0o640, 0o604, 0o644, 0o620, 0o602, 0o666] {
        scratch.set_mode("server.key", mode);
        let chmod = format!("chmod 600 {}", scratch.path("server.key").display());
        let parts = [
            "open to group or others",
            &format!("mode 0{mode:o}"),
            &chmod,
        ];
        scratch.assert_error(KEY_LINE, &parts);
    }
    for mode in [0o600, 0o400, 0o700] {
        scratch.set_mode("server.key", mode);
        scratch.loaded();
    }
}

#[test]
fn key_of_another_certificate() {
    let scratch = Scratch::new();
    scratch.write("server.key", scratch.server(|_| {}).key.serialize_pem());
    scratch.assert_error(KEY_LINE, &["does not", "server.pem", "openssl pkey -in"]);
}

#[test]
fn keys_that_are_none() {
    let scratch = Scratch::new();
    let certificate = fs::read(scratch.path("server.pem")).unwrap();
    for (content, part) in [
        (&b""[..], "holds no PEM block PRIVATE KEY"),
        (&certificate, "holds no PEM block PRIVATE KEY"),
        (
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n",
            "is encrypted",
        ),
        (
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "do not fit",
        ),
        (
            b"-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----\n",
            "do not fit",
        ),
    ] {
        scratch.write("server.key", content);
        scratch.assert_error(KEY_LINE, &[part, "server.key"]);
    }
}

#[test]
fn missing_files_name_their_path() {
    let scratch = Scratch::new();
    for (name, line) in [
        ("server.pem", CERTIFICATE_LINE),
        ("server.key", KEY_LINE),
        ("clients-ca.pem", CA_LINE),
    ] {
        let path = scratch.path(name);
        fs::rename(&path, scratch.path("aside")).unwrap();
        let part = format!("cannot read {}: No such file", path.display());
        scratch.assert_error(line, &[&part, "correct the path"]);
        fs::rename(scratch.path("aside"), &path).unwrap();
    }
    scratch.loaded();
}

#[test]
fn ca_missing() {
    let scratch = Scratch::new();
    fs::remove_file(scratch.path("clients-ca.pem")).unwrap();
    scratch.assert_error(CA_LINE, &["cannot read", "clients-ca.pem"]);
    scratch.write("ringgate.toml", front_with("client_ca", ""));
    scratch.assert_error(2, &["`client_ca` is missing"]);
    scratch.write("ringgate.toml", front_with("client_ca", "client_ca = []"));
    scratch.assert_error(CA_LINE, &["is an empty list"]);
}

#[test]
fn ca_empty() {
    let scratch = Scratch::new();
    for (content, part) in [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("# none\n", "holds no PEM"),
    ] {
        scratch.write("clients-ca.pem", content);
        scratch.assert_error(CA_LINE, &[part, "one or more certificates"]);
    }
}

#[test]
fn ca_corrupt() {
    let scratch = Scratch::new();
    let sound = fs::read_to_string(scratch.path("clients-ca.pem")).unwrap();
    let halved = &sound[..sound.len() / 2];
    let flipped = pem("CERTIFICATE", &{
        let mut der = scratch.ca.certificate.to_vec();
        der[4] ^= 0xff;
        der
    });
    for (content, part) in [
        (halved.to_owned(), "is damaged"),
        (sound.replacen("MI", "!!", 1), "is damaged"),
        (flipped.clone(), "certificate 1 in"),
        // One bad certificate among good ones spoils the file: which ones count must not depend
        // on luck.
        (format!("{sound}{flipped}"), "certificate 2 in"),
        (pem("CERTIFICATE", b""), "certificate 1 in"),
    ] {
        scratch.write("clients-ca.pem", content);
        scratch.assert_error(CA_LINE, &[part, "clients-ca.pem"]);
    }
    scratch.write("clients-ca.pem", &*scratch.ca.certificate);
    scratch.assert_error(CA_LINE, &["is in DER form", "openssl x509 -inform der"]);
}

#[test]
fn a_leaf_is_no_ca() {
    let scratch = Scratch::new();
    let leaf = scratch.ca.issue(client("alice"));
    scratch.write("clients-ca.pem", pem("CERTIFICATE", &leaf.certificate));
    scratch.assert_error(CA_LINE, &["clients-ca.pem", "is no CA certificate"]);
}

#[test]
fn an_expired_certificate_is_a_warning() {
    let scratch = Scratch::new();
    for (from, until, part) in [(-9, -1, "has expired"), (1, 9, "is not valid yet")] {
        scratch.write_leaf(
            "server",
            &scratch.server(|params| {
                params.not_before = at(NOW + from * DAY);
                params.not_after = at(NOW + until * DAY);
            }),
        );
        let warnings = render(&scratch.loaded().warnings);
        assert!(
            warnings.contains(part) && warnings.contains("CN=server"),
            "{warnings}"
        );
    }
}

#[test]
fn what_is_no_file() {
    let scratch = Scratch::new();
    fs::remove_file(scratch.path("server.pem")).unwrap();
    fs::create_dir(scratch.path("server.pem")).unwrap();
    scratch.assert_error(CERTIFICATE_LINE, &["is not a regular file"]);
    fs::remove_dir(scratch.path("server.pem")).unwrap();
    let _socket = UnixListener::bind(scratch.path("server.pem")).unwrap();
    scratch.assert_error(CERTIFICATE_LINE, &["is not a regular file"]);
}

#[test]
fn a_file_that_is_too_large() {
    let scratch = Scratch::new();
    let mut options = fs::File::options();
    let file = options.write(true).open(scratch.path("clients-ca.pem"));
    let file = file.unwrap();
    file.set_len(PEM_BYTES_MAX + 1).unwrap();
    scratch.assert_error(CA_LINE, &["is larger than 64 MiB", "split it"]);
}

#[test]
fn unreadable_paths() {
    let scratch = Scratch::new();
    scratch.set_mode("server.pem", 0o000);
    if modes_do_not_bind(&scratch.path("server.pem")) {
        eprintln!("skipped: this user reads files whatever their mode");
        return;
    }
    scratch.assert_error(CERTIFICATE_LINE, &["Permission denied", "let the user"]);
}

#[test]
fn files_are_checked_though_the_configuration_is_wrong() {
    let scratch = Scratch::new();
    scratch.write("ringgate.toml", front("colour = \"blue\""));
    scratch.set_mode("server.key", 0o644);
    scratch.write("clients-ca.pem", "");
    let said = scratch.said();
    for part in ["colour", "mode 0644", "clients-ca.pem is empty"] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
}

#[test]
fn a_setting_that_routes_share_is_reported_once() {
    let scratch = Scratch::new();
    let routes = "[[listener.route]]\nserver_names = \"a.example\"\n\
                  [[listener.route]]\nserver_names = \"b.example\"\n";
    scratch.write("ringgate.toml", format!("{FRONT}{routes}"));
    scratch.loaded();
    fs::remove_file(scratch.path("clients-ca.pem")).unwrap();
    scratch.assert_error(CA_LINE, &["cannot read"]);
}

#[test]
fn several_ca_files_all_count() {
    let scratch = Scratch::new();
    scratch.write(
        "other-ca.pem",
        pem("CERTIFICATE", &Ca::root("other").certificate),
    );
    let line = "client_ca = [\"clients-ca.pem\", \"other-ca.pem\"]";
    scratch.write("ringgate.toml", front_with("client_ca", line));
    scratch.loaded();
    scratch.write("other-ca.pem", "");
    scratch.assert_error(CA_LINE, &["client_ca[1] = \"other-ca.pem\"", "is empty"]);
}

#[test]
fn configuration_files_that_cannot_be_read() {
    let scratch = Scratch::new();
    let file = scratch.path("ringgate.toml");
    for (content, part) in [
        (&b""[..], "`listener` is missing"),
        (
            b"[[listener]]\n\xff",
            "is not UTF-8: the first bad byte is in line 2",
        ),
        (&vec![b'#'; (16 << 20) + 1], "is larger than 16MiB"),
    ] {
        fs::write(&file, content).unwrap();
        let said = scratch.said();
        assert!(
            said.contains(part) && said.contains("ringgate.toml: "),
            "{said}"
        );
    }
    fs::remove_file(&file).unwrap();
    let said = scratch.said();
    assert!(said.contains("cannot be read: No such file"), "{said}");
    fs::create_dir(&file).unwrap();
    let said = scratch.said();
    assert!(said.contains("is a directory"), "{said}");
}
