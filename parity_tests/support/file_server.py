"""A file server in this process that gives planned answers, correct or not."""

import base64
import hashlib
import re
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CONTENT = b"It was late in June, and she read a story.\n" * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PIECE = 1 << 14  # instead of a megabyte
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Answers with server.files[path], in the way that the next item of server.plan[path] names."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        self.close_connection = True
        path = urlsplit(self.path).path  # of a proxy's request, too
        server.asked.append((self.path, self.headers["Range"], self.headers["If-Range"]))
        plan = server.plan.get((self.command, path)) or server.plan.get(path) or ["good"]
        how = plan.pop(0) if len(plan) > 1 else plan[0]
        if isinstance(how, int):
            self.send_error(how)
            return
        if how == "nonsense":
            self.wfile.write(b"not http at all\r\n\r\n")
            return
        if how == "hangup":
            return
        if how == "silence":
            server.released.wait(1)
            return
        stall, how = how == "stall", "cut 100000" if how == "stall" else how
        if how.startswith("to "):
            self.send_response(302)
            self.send_header("Location", how.removeprefix("to ").removesuffix(" with a flood"))
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if how.endswith(" with a flood"):
                self.flood(bytes(PIECE))
            return
        body = server.files.get(path)
        if body is None:
            self.send_error(404)
        elif how in ("chunked", "chunked cut", "endless"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n" % (1000, body[:1000]))
            if how == "endless":
                self.flood(b"%x\r\n%b\r\n" % (PIECE, bytes(PIECE)))
            elif how == "chunked":
                self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body) - 1000, body[1000:]))
        else:
            self.give(how, body[::-1] if how == "wrong" else body, stall)

    def flood(self, piece):
        """Send much more than any client should read."""
        with suppress(OSError):
            for _ in range(4000):
                self.wfile.write(piece)
            self.server.drained = True

    def give(self, how, body, stall):
        """Send the body, or the requested range, with headers. `stall`: do not close."""
        whole, first, etag = len(body), 0, f'"{hashlib.md5(body).hexdigest()}"'
        name = DATE if how == "dated" else etag
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        unless = self.headers["If-Range"]
        ignored = how == "no ranges" or (unless not in (None, name) and how != "no if-range")
        if asked and not ignored:
            first = int(asked[1])
            if first >= whole:
                self.send_error(416)
                return
            self.send_response(206)
            said = first + 1 if how == "shifted" else first
            if how != "no range header":
                total = whole + 1 if how == "another total" else whole
                self.send_header("Content-Range", f"bytes {said}-{whole - 1}/{total}")
        else:
            self.send_response(206 if how == "unasked" else 200)
        body = body[first:]
        if how == "dated":
            self.send_header("Last-Modified", DATE)
        elif how != "nameless":
            self.send_header("ETag", {"weak": f"W/{etag}", "another name": '"x"'}.get(how, etag))
        if how in ("md5", "bad md5"):
            sent = body if how == "md5" else body[::-1]
            self.send_header("Content-MD5", base64.b64encode(hashlib.md5(sent).digest()).decode())
        if how in ("sha1", "bad sha1", "unverified sha1"):
            sha1 = hashlib.sha1(body if how == "sha1" else body[::-1]).hexdigest()
            prefix = "unverified:" if how == "unverified sha1" else ""
            self.send_header("x-bz-content-sha1", prefix + sha1)
        if how == "packed":
            self.send_header("Content-Encoding", "gzip")
        if how.startswith("hub "):
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-ETag", f'"{how.removeprefix("hub ")}"')
            self.send_header("X-Linked-Size", str(whole))
        if how in ("unannounced", "more"):
            self.end_headers()
            self.wfile.write(body + b"!" * (how == "more"))
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = re.fullmatch(r"cut (\d+)", how)
        with suppress(OSError):
            self.wfile.write(body[: int(cut[1])] if cut else body + b"more" * (how == "beyond"))
            if how == "beyond" or stall:
                self.server.released.wait(20)  # without closing the connection

    def end_headers(self):
        self.send_header("Connection", "close")
        super().end_headers()

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    """The files, the planned answers, and the requests so far."""

    daemon_threads = False
    request_queue_size = 20

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.plan, self.asked = {}, {}, []
        self.released, self.drained = threading.Event(), False
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def paths(self):
        return [path for path, _, _ in self.asked]

    def handle_error(self, request, address):
        assert isinstance(sys.exception(), OSError)  # the client has closed the connection


def listed(folder):
    """Return every path below a directory."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def ranges(server):
    return [(path, asked) for path, asked, _ in server.asked]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}
