//! PEM of anything.

/// A PEM block (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> String {
    const SYMBOLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let mut bytes = [0; 4];
            bytes[1..=group.len()].copy_from_slice(group);
            let bits = u32::from_be_bytes(bytes);
            for at in 0..4 {
                let symbol = SYMBOLS[(bits >> (18 - 6 * at)) as usize & 63];
                text.push(if at <= group.len() {
                    symbol.into()
                } else {
                    '='
                });
            }
        }
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}
