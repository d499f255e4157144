/** Caps of tunnels, on both of their ends. Ours where no source is named. */

/** A WebSocket message of a connection; longer writes are cut. Twice what is written, so that a peer of another version fits. */
export const MESSAGE_BYTES_MAX = 512 * 1024;
export const CHUNK_BYTES_MAX = 256 * 1024;

/** A message on the control channel. */
export const CONTROL_BYTES_MAX = 16 * 1024;
/** Messages that a control channel may send in one heartbeat; beyond, it is closed. */
export const CONTROL_MESSAGES_MAX = 100;

/** How often each side says that it is alive: below the idle time-outs of load balancers and NAT (60 s is the shortest in use). */
export const PING_MS = 20_000;
/** Silent heartbeats after which a peer is taken for dead. */
export const SILENT_PINGS_MAX = 3;

/** Connections of one principal at once, over all of its tunnels, in one gateway. */
export const CONNECTIONS_PER_PRINCIPAL_MAX = 2_000;
/** Tunnels of one principal at once, in one gateway. */
export const TUNNELS_PER_PRINCIPAL_MAX = 64;
/** Tunnelled connections in their handshake at once; as for a listener. */
export const HANDSHAKES_MAX = 2_000;

/** How long a gateway that stops waits for closing WebSockets. */
export const CLOSE_MS_MAX = 1_000;

/** From the first packet to an open WebSocket, proxies and TLS included. */
export const DIAL_MS_MAX = 15_000;
/** Head of a proxy's answer to CONNECT, and body of a gateway's refusal. */
export const ANSWER_BYTES_MAX = 16 * 1024;

/** Waits between attempts to have the control channel back: doubled from the first to the last, each with jitter. */
export const RECONNECT_MS_MIN = 250;
export const RECONNECT_MS_MAX = 15_000;

/** Local connections that wait for their WebSocket at once; beyond, new ones are closed. */
export const DIALS_MAX = 2_000;
/** Of those, how many dial at the same moment; the others wait, so that a pool that opens at once floods no gateway. */
export const DIALS_AT_ONCE_MAX = 64;

/** Ports for private use (RFC 6335, section 6): where a tunnel without a wish is. */
export const PORT_FIRST = 49_152;
export const PORT_LAST = 65_535;
/** Ports that are tried before giving up. */
export const PORT_ATTEMPTS_MAX = 64;

/** A table of sockets in /proc is read up to this size. */
export const SOCKET_TABLE_BYTES_MAX = 32 * 1024 * 1024;
/** Refused local connections are told to the gateway at most this often. */
export const LOCAL_REFUSALS_TOLD_MS = 10_000;
