# Relays standard input and output over TLS: IP PORT SERVER_NAME ROOT [CHAIN KEY]
import os
import socket
import ssl
import sys
import threading

ip, port, server_name, root = sys.argv[1:5]
context = ssl.create_default_context(cafile=root)
context.set_alpn_protocols(["echo"])
if len(sys.argv) > 5:
    context.load_cert_chain(*sys.argv[5:7])

plain = socket.create_connection((ip, int(port)))
connection = context.wrap_socket(plain, server_hostname=server_name)


def send():
    try:
        while chunk := os.read(0, 65536):
            connection.sendall(chunk)
        connection.unwrap()
    except OSError as error:
        print(error, file=sys.stderr)


threading.Thread(target=send, daemon=True).start()
try:
    while chunk := connection.recv(65536):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
except OSError as error:
    print(error, file=sys.stderr)
