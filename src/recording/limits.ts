/** Caps of journal and recordings. All are ours; what they were measured against stands beside them. */

/** Events of one turn are written at once when they have grown to this, before the turn ends. */
export const BATCH_BYTES_MAX = 512 * 1024;

/** One event as encoded; what is longer keeps its text and loses columns, samples and messages. */
export const EVENT_BYTES_MAX = 8 * 1024 * 1024;

/** A batch may be as long as the events that piled up while the journal could not be written. */
export const BATCH_PAYLOAD_BYTES_MAX = 64 * 1024 * 1024;

/** Events kept in memory while the journal cannot be written; beyond, they are counted and the gap is recorded. */
export const PENDING_BYTES_MAX = 16 * 1024 * 1024;

/** A segment is closed and the next begun at this size or age. */
export const SEGMENT_BYTES_MAX = 64 * 1024 * 1024;
export const SEGMENT_MS_MAX = 10 * 60_000;

/** The clear header of a segment: a wrapped key of about 200 bytes a recipient. */
export const SEGMENT_HEADER_BYTES_MAX = 64 * 1024;
export const RECIPIENTS_MAX = 100;

/** How long the end of a statement may wait for company when nothing else is written. */
export const END_DELAY_MS_MAX = 20;

/** `buffered` promises 100 ms; a timer that is late by a fifth still keeps it. */
export const BUFFERED_DELAY_MS_MAX = 80;

/** How often a journal that failed is tried again. */
export const RETRY_MS = 1_000;

/** How often the journal looks at its lag and at the age of its segment. */
export const TICK_MS = 1_000;

/** Events of a recording are compressed and encrypted when this much JSON has come together. */
export const CHUNK_BYTES_MAX = 256 * 1024;

/** What a chunk may unpack to: guards readers against a crafted one. One event may be longer than a chunk. */
export const CHUNK_PLAIN_BYTES_MAX = CHUNK_BYTES_MAX + 3 * EVENT_BYTES_MAX;

/** A part of a recording is sealed at this size, and the next begun. */
export const PART_BYTES_MAX = 32 * 1024 * 1024;

/** How long the events of a running session may wait for their part to be sealed. */
export const SEAL_MS = 5 * 60_000;

/** Sessions that are sealed together, with one transaction of the index. */
export const SEALED_TOGETHER_MAX = 64;

/** JSON of all open parts together that the sealer keeps in memory; beyond, chunks are written early. */
export const SEALER_MEMORY_BYTES_MAX = 64 * 1024 * 1024;

/** Clear header and trailer of a part; the trailer has about 130 bytes a chunk. */
export const RECORDING_HEADER_BYTES_MAX = 64 * 1024;
export const RECORDING_TRAILER_BYTES_MAX = 1024 * 1024;

/** Parts whose data keys are derived from one key. */
export const KEY_PARTS_MAX = 64;

/**
 * Nobody waits for the sealer, and everybody for the thread that relays. At 5 it still gets a quarter of a core that
 * somebody else could use whole, so that it does not fall behind for long.
 */
export const SEALER_NICENESS = 5;

/** How often the sealer looks for new events. */
export const SEALER_POLL_MS = 250;

/** Pauses between attempts at a store that is away. */
export const STORE_RETRY_MS_MIN = 1_000;
export const STORE_RETRY_MS_MAX = 60_000;

/** How often recordings whose time is over are looked for. */
export const RETENTION_ROUND_MS = 10 * 60_000;

/** Parts of a multipart upload: S3 takes none smaller than 5 MiB but the last. */
export const S3_PART_BYTES = 8 * 1024 * 1024;

/** Events of one delivery of a stream. */
export const STREAM_BATCH_EVENTS_MAX = 1_000;
export const STREAM_BATCH_BYTES_MAX = 1024 * 1024;

/** How long a receiver of a stream may take to connect or to answer. */
export const STREAM_TIMEOUT_MS = 15_000;
/** How long a stop waits for receivers of streams; the next start goes on where they are. */
export const STREAM_FINISH_MS = 3_000;

/** Frames, and characters of them, that a replay keeps behind it for going back; what lies farther back is read again. */
export const REPLAY_FRAMES_MAX = 4_000;
export const REPLAY_CHARACTERS_MAX = 16 * 1024 * 1024;

/** Events, and characters of them, that wait for the end of a statement before them; beyond, its end is looked for ahead. */
export const JOIN_EVENTS_MAX = 20_000;
export const JOIN_CHARACTERS_MAX = 32 * 1024 * 1024;

/** Pieces of a capture file are given on when this much has come together. */
export const CAPTURE_PIECE_BYTES = 64 * 1024;

/** Rows of one transaction of the index. */
export const INDEX_BATCH_ROWS = 5_000;

/** Rows, and characters of their texts, that wait for an index that is away; beyond, sessions are indexed again later. */
export const INDEX_KEPT_ROWS_MAX = 50_000;
export const INDEX_KEPT_CHARACTERS_MAX = 64 * 1024 * 1024;

/** How long sealing waits for the index, once in a while; then it goes on without. */
export const INDEX_WAIT_MS = 2_000;
