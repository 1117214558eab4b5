//! nginx as an upstream that reads PROXY v2 and logs what it says.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::gate::Gate;
use super::pki::{CLIENT_NAME, CLIENT_URI, SERVER_NAME};
use super::program::{self, Scratch, Service, free_address, until};

/// Where distributions keep the stream module when it is not built in.
const STREAM_MODULES: [&str; 3] = [
    "/usr/lib/nginx/modules/ngx_stream_module.so",
    "/usr/lib64/nginx/modules/ngx_stream_module.so",
    "/usr/share/nginx/modules/ngx_stream_module.so",
];

/// The first version that knows `$proxy_protocol_tlv_…`. Those before it read no header of more
/// than 107 bytes in the stream module, and none past the first 1 KiB in HTTP.
const TLVS_SINCE: [u32; 3] = [1, 23, 2];

/// Variables of every version, then those of [`TLVS_SINCE`]; each on a line of the log.
const ADDRESSES: &[&str] = &["addr", "port", "server_addr", "server_port"];
const TLVS: &[&str] = &[
    "tlv_authority",
    "tlv_alpn",
    "tlv_ssl_version",
    "tlv_ssl_cn",
    "tlv_ssl_cipher",
    "tlv_ssl_verify",
    "tlv_0xe0",
    "tlv_0xe3",
];

/// The line that loads the stream module, empty where it is built in. `None` where it is not
/// installed.
pub fn load_stream(program: &Path) -> Option<String> {
    let built_in = version(program).contains("--with-stream ");
    let module = STREAM_MODULES
        .iter()
        .find(|module| Path::new(module).exists());
    match (built_in, module) {
        (true, _) => Some(String::new()),
        (false, Some(module)) => Some(format!("load_module {module};")),
        (false, None) => {
            program::skip("nginx's stream module is not installed");
            None
        }
    }
}

/// A running nginx.
pub struct Nginx {
    pub address: SocketAddr,
    /// Whether its log has what the TLVs say.
    logs_tlvs: bool,
    log: PathBuf,
    scratch: Scratch,
    _service: Service,
}

impl Nginx {
    /// An HTTP server: `/who` answers with the client's address and port as PROXY v2 told them;
    /// other paths can be put and got. `None` where it is not installed.
    pub fn http() -> Option<Self> {
        Self::start("http", "", |address, folder| {
            let folder = folder.display();
            format!(
                "client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
                 fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
                 scgi_temp_path {folder}/scgi; client_max_body_size 20m;
                 server {{
                     listen {address} proxy_protocol;
                     root {folder};
                     dav_methods PUT;
                     location = /who {{
                         return 200 '$proxy_protocol_addr $proxy_protocol_port';
                     }}
                 }}"
            )
        })
    }

    /// A relay to `upstream`, which is not told who came. `None` where it, or its stream module,
    /// is not installed or too old.
    pub fn stream(upstream: SocketAddr) -> Option<Self> {
        let version = version(&program::find("nginx")?);
        if !knows_tlvs(&version) {
            program::skip("this nginx's stream module reads no PROXY header with TLVs");
            return None;
        }
        let load = load_stream(&program::find("nginx")?)?;
        Self::start("stream", &load, |address, _| {
            format!("server {{ listen {address} proxy_protocol; proxy_pass {upstream}; }}")
        })
    }

    fn start(
        kind: &str,
        load: &str,
        servers: impl FnOnce(SocketAddr, &Path) -> String,
    ) -> Option<Self> {
        let program = program::find("nginx")?;
        let logs_tlvs = knows_tlvs(&version(&program));
        let scratch = Scratch::named("nginx");
        let (folder, address) = (scratch.path(), free_address());
        let log = folder.join("told.log");
        let tlvs = if logs_tlvs { TLVS } else { &[] };
        let told: Vec<String> = [ADDRESSES, tlvs]
            .concat()
            .iter()
            .map(|name| format!("{name}=$proxy_protocol_{name}"))
            .collect();
        let config = format!(
            "{load} daemon off; master_process off; pid {}/pid; events {{}}
             {kind} {{ log_format told '{}'; access_log {} told; {} }}",
            folder.display(),
            told.join(" "),
            log.display(),
            servers(address, folder)
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(program);
        command
            .args(["-e", "stderr", "-p"])
            .arg(folder)
            .arg("-c")
            .arg(&file);
        let service = Service::start(&mut command, &folder.join("nginx.log"), address);
        Some(Self {
            address,
            logs_tlvs,
            log,
            scratch,
            _service: service,
        })
    }

    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// The lines of its log about those whom a header introduced, once there is one.
    pub fn told(&self) -> Vec<String> {
        until("nginx's log", || {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            let introduced = text.lines().filter(|line| !line.contains("addr=- "));
            let lines: Vec<String> = introduced.map(str::to_owned).collect();
            (!lines.is_empty()).then_some(lines)
        })
    }

    /// Its log has one line, and that is true of the client whom the policy knows, through `gate`.
    #[track_caller]
    pub fn assert_told(&self, gate: &Gate, alpn: &str) {
        let told = self.told();
        assert_eq!(
            told.len(),
            1,
            "the one that may enter, and nobody else: {told:#?}"
        );
        let mut expected = vec![
            "addr=127.0.0.1".to_owned(),
            format!("server_addr={}", gate.address.ip()),
            format!("server_port={}", gate.address.port()),
        ];
        if self.logs_tlvs {
            expected.extend([
                format!("tlv_alpn={alpn}"),
                format!("tlv_authority={SERVER_NAME}"),
                "tlv_ssl_version=TLSv1.3".to_owned(),
                "tlv_ssl_verify=0".to_owned(),
                format!("tlv_ssl_cn={CLIENT_NAME}"),
                format!("tlv_0xe0={CLIENT_URI}"),
                "tlv_0xe3=billing".to_owned(),
            ]);
        }
        let words: Vec<&str> = told[0].split(' ').collect();
        for word in expected {
            assert!(words.contains(&word.as_str()), "`{word}` in {}", told[0]);
        }
    }
}

/// What `nginx -V` says.
fn version(program: &Path) -> String {
    let output = Command::new(program).arg("-V").output().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// From the line `nginx version: nginx/1.22.1`.
fn knows_tlvs(version: &str) -> bool {
    let number = version
        .split("nginx/")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let parts: Vec<u32> = number
        .unwrap_or("0")
        .split('.')
        .filter_map(|p| p.parse().ok())
        .collect();
    parts[..] >= TLVS_SINCE[..]
}

#[test]
fn versions_are_compared_by_number() {
    for (version, expected) in [("1.22.1", false), ("1.23.2", true), ("1.9.0", false)] {
        let text = format!("nginx version: nginx/{version} (Debian)\nbuilt by gcc");
        assert_eq!(knows_tlvs(&text), expected, "{version}");
    }
    assert!(!knows_tlvs(""));
}
