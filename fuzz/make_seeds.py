#!/usr/bin/env python3
"""Writes the seeds of fuzz/corpus that are made rather than found. Run it after the inputs' form has changed."""
import pathlib
import zlib

CORPUS = pathlib.Path(__file__).parent / "corpus"

# Real frames, from twilight's tests.
ZLIB_HELLO = bytes.fromhex(
    "789c34c9410a83301005d0bbfc755262a9207315233235431b8851e2d85242eede6eba7bf02a1494cf940c8e3fb61dd4398300aa780a"
    "17bd0beb1cb34a797102ddba6bfffb590b2f021a317a3c58e5cd1fbb9760578ed90efd103c4cf558e352b6c383dcc5b509536b5f0000"
    "00ffff")
ZLIB_ACK = bytes.fromhex("aac665ab21d85690402d000000ffff")
ZSTD_HELLO = bytes.fromhex(
    "28b52ffd00406403004207191c7089737428d0cb55ffa74a4b7ecbdee7ff9712d3d4ab9097d2ff3304312247620224fd7a8d63cbe10b"
    "a22f85f106c952f55bcef7a4e29c5c6c827b0b5fc70f3db3759d1c25414019fab608c7cd2c492f13da2d1b0ef5ca51527aa77947ad3d"
    "8cbe0f030100244a12")

HELLO = r'{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250,"_trace":["[\"gateway-prd-main-858d\",{\"micros\":0.0}]"]}}'
PAYLOADS = {
    "hello": HELLO,
    "ack": '{"t":null,"s":null,"op":11,"d":null}',
    "invalid_session": '{"t":null,"s":null,"op":9,"d":false}',
    "ready": '{"t":"READY","s":1,"op":0,"d":{"v":10,"user":{"id":"80351110224678912"},"session_id":"cafe",'
             '"resume_gateway_url":"wss://gateway-us-east1-b.discord.gg","guilds":[{"id":"41771983423143937","unavailable":true}]}}',
    "message": r'{"t":"MESSAGE_CREATE","s":42,"op":0,"d":{"id":"7","content":"\"guild_id\":\"1\" \\","author":{"guild_id":"2"},"guild_id":"3"}}',
    "guild": '{"t":"GUILD_CREATE","s":2,"op":0,"d":{"members":[{"user":{"id":"1"}}],"name":"é日本","id":"77","unavailable":false}}',
    "other_order": '{"d":{"guild_id":"5"},"op":0,"s":3,"t":"X"}',
    "white_space": '\n{ "d" : { "guild\\u005fid" : "5" } , "op" : 0 ,\t"t":"X", "s" : 3 } ',
    "array": '{"t":"PRESENCES_REPLACE","s":1,"op":0,"d":[{"guild_id":"1"}]}',
    "large_sequence": '{"t":"X","s":9007199254740991,"op":0,"d":{}}',
    "deep": '{"t":"X","s":1,"op":0,"d":{"a":' + "[" * 126 + "]" * 126 + "}}",
    "too_deep": '{"t":"X","s":1,"op":0,"d":{"a":' + "[" * 127 + "]" * 127 + "}}",
    "bad_utf8": b'{"t":"X","s":1,"op":0,"d":{"a":"\xff"}}',
}


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def parts(*messages):
    """Messages as inflater_fuzz.cc's ReadPart reads them."""
    script = b""
    for message in messages:
        while len(message) > 250:
            script += bytes([250]) + message[:250]
            message = message[250:]
        script += bytes([len(message)]) + message
    return script


def as_bytes(text):
    return text if isinstance(text, bytes) else text.encode()


for name, text in PAYLOADS.items():
    write("envelope", name, b"\x00" + as_bytes(text))
write("envelope", "data", b"\x01" + rb'{"a":"\\\"","guild_id":"1","b":[{"guild_id":"2"}]}')
write("envelope", "guild_data", b"\x03" + b'{"x":{"id":"1"},"id":"2"}')

DATA = {
    "nested": r'{"b":{"c":[1,{"d":-2.5e3,"e":"\u00e9\n"}],"f":null},"a":"a text of more than sixteen bytes, and then some"}',
    "doubles": '{"a":1,"a":2,"b":[[],{},"",0,[1],true,false]}',
    "array": '[{"guild_id":"1","unavailable":true},[ 1 ,2]]',
    "id": r'{"author":{"id":"2"},"i\u0064":"1","role":{"name":"x","id":"3"},"unavailable" : true}',
    "member": '{"user":{"id":"8","name":"x"},"user_id":"8","joined_at":"2020","processed_at_timestamp":1}',
    "broken_escape": r'{"a":"\ud800","b\ud800":1}',
    "deep": '{"a":' * 60 + "1" + "}" * 60,
}
for name, text in DATA.items():
    for kind in range(8):
        write("event_key", f"{name}_{kind}", bytes([kind, 37 * kind % 256]) + as_bytes(text))

# Bounds are chosen by the first byte: 6, 7 for 1,000,000 bytes; 2 and 3 for 100. Odd: a round trip.
deflate = zlib.compressobj(6)
stream = [deflate.compress(as_bytes(p)) + deflate.flush(zlib.Z_SYNC_FLUSH) for p in list(PAYLOADS.values())[:6]]
write("zlib", "captured", b"\x06" + parts(ZLIB_HELLO, ZLIB_ACK))
write("zlib", "stream", b"\x06" + parts(*stream))
write("zlib", "split", b"\x06" + parts(*[ZLIB_HELLO[i:i + 7] for i in range(0, len(ZLIB_HELLO), 7)], ZLIB_ACK))
write("zlib", "fresh_streams", b"\x06" + parts(*[zlib.compress(as_bytes(p)) for p in list(PAYLOADS.values())[:4]]))
write("zlib", "bomb", b"\x04" + parts(zlib.compress(b" " * 40_000)))
write("zlib", "over_the_bound", b"\x02" + parts(ZLIB_HELLO))
write("zlib", "text", b"\x06" + bytes([253, 2]) + b"{}" + parts(ZLIB_HELLO))
write("zlib", "nothing", b"\x06" + parts(b"\x78\x9c", b"\x00\x00\x00\xff\xff", b""))
write("zlib", "round_trip", b"\x07" + parts(*[as_bytes(p) for p in PAYLOADS.values()]))

MAGIC = b"\x28\xb5\x2f\xfd"


def raw_frame(*blocks, window=0x40, last=False):
    """A zstd frame of stored blocks, by hand (RFC 8878): there is no zstd in Python's library."""
    frame = MAGIC + bytes([0, window])
    for i, block in enumerate(blocks):
        header = len(block) << 3 | int(last and i == len(blocks) - 1)
        frame += header.to_bytes(3, "little") + block
    return frame


write("zstd", "captured", b"\x06" + parts(ZSTD_HELLO))
write("zstd", "split", b"\x06" + parts(*[ZSTD_HELLO[i:i + 7] for i in range(0, len(ZSTD_HELLO), 7)]))
write("zstd", "frames", b"\x06" + parts(*[raw_frame(as_bytes(p), last=True) for p in list(PAYLOADS.values())[:4]]))
write("zstd", "blocks", b"\x06" + parts(raw_frame(b'{"op":', b"11}")))
write("zstd", "window_8_mib", b"\x06" + parts(raw_frame(b"{}", window=13 << 3)))
write("zstd", "window_16_mib", b"\x06" + parts(raw_frame(b"{}", window=14 << 3)))
write("zstd", "bomb", b"\x04" + parts(MAGIC + bytes([0, 0x40]) + (100_000 << 3 | 2).to_bytes(3, "little") + b" "))
write("zstd", "over_the_bound", b"\x02" + parts(ZSTD_HELLO))
write("zstd", "text", b"\x06" + bytes([253, 2]) + b"{}" + parts(ZSTD_HELLO))
write("zstd", "round_trip", b"\x07" + parts(*[as_bytes(p) for p in PAYLOADS.values()]))


def receive(kind, *steps):
    """A script as receive_fuzz.cc's Driver reads it."""
    return bytes([kind]) + b"".join(bytes(step) for step in steps)


def counted(text):
    return [min(len(text), 255)] + list(as_bytes(text)[:255])


START, TICK, READY_A, NEXT, RESUMED, DROP = [0], [6], [15, 1, 0], [24], [17, 5], [10]
IDENTIFY = [START, [3, 0], [4], [14, 0x22, 0xA1], READY_A]
RESUME = [[6], [4], [14, 0x22, 0xA1]]
for kind, name in ((0, "zlib"), (1, "plain")):
    write("receive", f"identify_{name}", receive(kind, *IDENTIFY, NEXT, NEXT, [16, 4], TICK, [20], TICK, TICK, TICK))
    write("receive", f"resume_{name}", receive(kind, *IDENTIFY, NEXT, DROP, *RESUME, NEXT, RESUMED, NEXT, [18], *RESUME))
    write("receive", f"op9_{name}", receive(kind, *IDENTIFY, [19, 1], *RESUME, [19, 0], TICK, [3, 5], [4], [14, 0x22, 0xA1], READY_A))
    write("receive", f"closes_{name}", receive(kind, *IDENTIFY, [8, 0xA0, 0x0F], *RESUME, [9], *RESUME, [8, 0xAE, 0x0F], START))
    write("receive", f"gap_{name}", receive(kind, *IDENTIFY, [16, 9], *RESUME, [16, 9], RESUMED))
    write("receive", f"oversize_{name}", receive(kind, *IDENTIFY, [23, 2], *RESUME, [23, 2], RESUMED, [23, 9]))
    write("receive", f"garbage_{name}", receive(kind, *IDENTIFY, [11] + counted("{"), *RESUME, [12] + counted(b"\xff\x00"), *RESUME))
    write("receive", f"stop_{name}", receive(kind, *IDENTIFY, [1], START, [4], [2], START, [3, 0], [5], [25]))
    write("receive", f"json_{name}", receive(kind, *IDENTIFY, *[[13] + counted(p) for p in PAYLOADS.values()]))
