// Relays standard input and output over TLS: IP PORT SERVER_NAME ROOT [CHAIN KEY]
const fs = require("fs");
const tls = require("tls");

const [host, port, servername, root, chain, key] = process.argv.slice(1);
const connection = tls.connect({
  host,
  port: Number(port),
  servername,
  ca: fs.readFileSync(root),
  cert: chain && fs.readFileSync(chain),
  key: key && fs.readFileSync(key),
  ALPNProtocols: ["echo"],
});
connection.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
connection.on("close", () => process.exit(0));
process.stdin.pipe(connection);
connection.pipe(process.stdout);
