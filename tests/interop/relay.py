# Relays standard input and output over TLS: IP PORT SERVER_NAME ROOT [CHAIN KEY]
#
# With one thread: OpenSSL's connections are not made for two at a time.
import os
import select
import socket
import ssl
import sys

WAITS = (ssl.SSLWantReadError, ssl.SSLWantWriteError)

ip, port, server_name, root = sys.argv[1:5]
context = ssl.create_default_context(cafile=root)
context.set_alpn_protocols(["echo"])
if len(sys.argv) > 5:
    context.load_cert_chain(*sys.argv[5:7])

plain = socket.create_connection((ip, int(port)))
connection = context.wrap_socket(plain, server_hostname=server_name)
connection.setblocking(False)

waiting, input_ended, said_goodbye = b"", False, False


def send():
    global waiting, said_goodbye
    try:
        while waiting:
            waiting = waiting[connection.send(waiting) :]
        if input_ended and not said_goodbye:
            said_goodbye = True
            connection.unwrap()
    except WAITS:
        pass


def receive():
    """False once the server has ended the stream."""
    try:
        while chunk := connection.recv(65536):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        return False
    except WAITS:
        return True


try:
    while receive():
        reads = [connection] if waiting or input_ended else [connection, 0]
        readable, _, _ = select.select(reads, [connection] if waiting else [], [])
        if 0 in readable:
            waiting = os.read(0, 65536)
            input_ended = not waiting
        send()
except OSError as error:
    print(error, file=sys.stderr)
