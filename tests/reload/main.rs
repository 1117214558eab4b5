//! Reload of a running `ringgate`: what changes, what stays, and who notices.

#[path = "../common/pem.rs"]
mod pem;
#[path = "../common/pki.rs"]
mod pki;
#[allow(dead_code, reason = "each test target uses its part")]
#[path = "../config/scratch.rs"]
mod scratch;

mod broken;
#[allow(dead_code, reason = "each test target uses its part")]
mod gate;
mod load;
mod rotation;
mod trust;

use gate::FRONT;
