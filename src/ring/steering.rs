//! Which of several sockets at one address a new connection goes to: a classic BPF program that
//! the kernel asks for a socket's number (SO_ATTACH_REUSEPORT_CBPF, socket(7)).

use std::io;
use std::os::fd::AsRawFd;

use libc::{BPF_ABS, BPF_ALU, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_MOD, BPF_RET, BPF_W};

/// Return what is in the accumulator; `libc` lacks `BPF_A` (include/uapi/linux/bpf_common.h).
const RET_ACCUMULATOR: u32 = BPF_RET | 0x10;

/// Instructions of a program at most (BPF_MAXINSNS).
const INSTRUCTIONS_MAX: usize = 4096;

/// Steers by the CPU that takes a connection's packets.
#[derive(Clone, Debug)]
pub struct Steering {
    program: Vec<libc::sock_filter>,
}

impl Steering {
    /// `table` names the CPUs whose connections go to the socket of that number, counted from 0 in
    /// the order in which `sockets` of them begin to listen; other CPUs' go to the socket of their
    /// number modulo `sockets`. CPUs past the 2,000th are treated like those: a program has no
    /// room for more.
    pub fn by_cpu(table: &[(u32, u32)], sockets: u32) -> Self {
        let load_cpu = statement(BPF_LD | BPF_W | BPF_ABS, cpu_number());
        let rest = [
            statement(BPF_ALU | BPF_MOD | BPF_K, sockets.max(1)),
            statement(RET_ACCUMULATOR, 0),
        ];
        let room = (INSTRUCTIONS_MAX - 1 - rest.len()) / 2;
        let known = table.iter().take(room).flat_map(|&(cpu, socket)| {
            // Another CPU: over the return.
            let is_it = jump(BPF_JMP | BPF_JEQ | BPF_K, cpu, 0, 1);
            [is_it, statement(BPF_RET | BPF_K, socket)]
        });
        Self {
            program: [load_cpu].into_iter().chain(known).chain(rest).collect(),
        }
    }

    /// Has the kernel ask it from now on for every socket at the address of `socket`, which is
    /// bound, with SO_REUSEPORT, and may not listen yet.
    pub(super) fn attach(&self, socket: &impl AsRawFd) -> io::Result<()> {
        let len = libc::c_ushort::try_from(self.program.len()).unwrap_or(0);
        let program = libc::sock_fprog {
            len,
            filter: self.program.as_ptr().cast_mut(),
        };
        let size = libc::socklen_t::try_from(size_of_val(&program)).unwrap_or(0);
        // SAFETY: the option takes a `sock_fprog` of this size, which points to as many
        // instructions as it says; the kernel copies and checks them within the call, and writes
        // none of it.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_CBPF,
                (&raw const program).cast(),
                size,
            )
        };
        outcome(result)
    }
}

/// Has the kernel ask no program any more for sockets at the address of `socket`; there may be none
/// (SO_DETACH_REUSEPORT_BPF, Linux 5.3).
pub(super) fn detach(socket: &impl AsRawFd) -> io::Result<()> {
    let none: libc::c_int = 0;
    let size = libc::socklen_t::try_from(size_of_val(&none)).unwrap_or(0);
    // SAFETY: the option takes an int of this size, and heeds nothing of it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_REUSEPORT_BPF,
            (&raw const none).cast(),
            size,
        )
    };
    match outcome(result) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn outcome(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Where a program finds the number of the CPU that it runs on.
fn cpu_number() -> u32 {
    (libc::SKF_AD_OFF + libc::SKF_AD_CPU).cast_unsigned()
}

fn statement(code: u32, value: u32) -> libc::sock_filter {
    jump(code, value, 0, 0)
}

fn jump(code: u32, value: u32, if_true: u8, if_false: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt: if_true,
        jf: if_false,
        k: value,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::ring::Listener;

    /// Connections that each of the sockets got from as many of this CPU.
    fn accepted(listeners: &[Listener], cpu: core_affinity::CoreId) -> Vec<usize> {
        const CONNECTIONS: usize = 16;
        assert!(core_affinity::set_for_current(cpu));
        let address = listeners[0].address();
        let clients: Vec<TcpStream> = (0..CONNECTIONS)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let counts: Vec<usize> = listeners.iter().map(Listener::accept_all).collect();
        assert_eq!(counts.iter().sum::<usize>(), clients.len());
        counts
    }

    #[test]
    fn connections_go_to_the_socket_of_the_cpu_that_took_them() {
        let cpus = core_affinity::get_core_ids().unwrap();
        // Each CPU to the last socket but the first one, which goes to the middle one.
        let table: Vec<(u32, u32)> = cpus
            .iter()
            .enumerate()
            .map(|(at, cpu)| (u32::try_from(cpu.id).unwrap(), if at == 0 { 1 } else { 2 }))
            .collect();
        let steering = Steering::by_cpu(&table, 3);
        let address = "127.0.0.1:0".parse().unwrap();
        let listeners = Listener::bind_group(address, 3, Some(&steering)).unwrap();
        // On loopback the sender's CPU takes the packets, as long as nothing moves them.
        let counts: Vec<Vec<usize>> = cpus.iter().map(|&cpu| accepted(&listeners, cpu)).collect();
        for (at, counts) in counts.iter().enumerate() {
            let wanted = if at == 0 { [0, 16, 0] } else { [0, 0, 16] };
            assert_eq!(counts[..], wanted, "CPU number {at}");
        }
    }

    #[test]
    fn steering_ends_where_it_is_not_wanted_any_more() {
        let cpu = core_affinity::get_core_ids().unwrap()[0];
        let to_second = Steering::by_cpu(&[(u32::try_from(cpu.id).unwrap(), 1)], 2);
        let address = "127.0.0.1:0".parse().unwrap();
        let listeners = Listener::bind_group(address, 2, Some(&to_second)).unwrap();
        assert_eq!(accepted(&listeners, cpu)[0], 0);
        listeners[0].unsteer().unwrap();
        let by_hash: usize = (0..4).map(|_| accepted(&listeners, cpu)[0]).sum();
        assert!(by_hash > 0);
        listeners[0].unsteer().unwrap();
    }

    #[test]
    fn a_program_never_grows_past_what_the_kernel_takes() {
        let table: Vec<(u32, u32)> = (0..8192).map(|cpu| (cpu, cpu)).collect();
        let steering = Steering::by_cpu(&table, 8192);
        assert!(steering.program.len() <= INSTRUCTIONS_MAX);
        assert!(steering.program.len() > INSTRUCTIONS_MAX - 4);
        let address = "127.0.0.1:0".parse().unwrap();
        assert!(Listener::bind_group(address, 1, Some(&steering)).is_ok());
    }
}
