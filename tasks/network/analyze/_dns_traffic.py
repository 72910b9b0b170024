"""Queries and their answers: put together as they come, counted, and let go."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterator
from typing import Final

from tasks.network.analyze._dns_message import ANY, AXFR, IXFR, QR, TC, Malformed, Message, Question, Reader
from tasks.network.analyze._dns_names import Names
from tasks.network.analyze._percentiles import Durations

SECOND: Final = 1_000_000_000
REPEAT_NS: Final = 30 * SECOND
"""The same question with the same id and ports within this time is the same query, sent again."""
ANSWERED_NS: Final = 10 * SECOND
"""A query that was answered may be sent again, or answered again, within this time: the answer was lost behind the capture."""
LATE_NS: Final = 2 * SECOND
"""A query so close to the capture's end may have been answered after it."""
MOST_OPEN: Final = 40_000
FIRST_OPEN: Final = 5_000
"""Transactions from which on those are forgotten that nobody waits for."""
MOST_PAIRS: Final = 50_000
MOST_WAITING: Final = 10_000
STORM_ANSWERS: Final = 30
STORM_NS: Final = 60 * SECOND
MOST_FRAMES: Final = 20
MOST_SLOWEST: Final = 100
DNS_PORT: Final = 53


class Transaction:
    """A query and what became of it."""

    __slots__ = ("answer", "answers", "frame", "pair", "question", "sent", "size", "tcp", "time_ns")

    def __init__(self, time_ns: int, question: Question | None, frame: int, size: int, pair: Pair, tcp: bool) -> None:
        self.time_ns = time_ns
        self.question = question
        self.frame = frame
        self.size = size
        self.pair = pair
        self.tcp = tcp
        self.sent = 1
        self.answers = 0
        self.answer = 0


class Trouble:
    """What few pairs have: answers without a question, large ones, none."""

    __slots__ = ("any", "large_frames", "unanswered_frames", "unasked", "unasked_bytes", "unasked_frames")

    def __init__(self) -> None:
        self.any = self.unasked = self.unasked_bytes = 0
        self.large_frames: list[int] = []
        self.unanswered_frames: list[int] = []
        self.unasked_frames: list[int] = []


NO_TROUBLE: Final = Trouble()


class Pair:
    """What a client asked a server. There are as many as hosts: what few of them have is made when they have it."""

    __slots__ = (
        "answer_bytes", "answers", "client", "failed", "largest", "nxdomain", "queries", "query_bytes", "repeated", "server", "trouble",
        "unanswered",
    )  # fmt: skip

    def __init__(self, client: str, server: Server) -> None:
        self.client = client
        self.server = server
        self.queries = self.answers = self.nxdomain = self.failed = self.repeated = self.unanswered = 0
        self.query_bytes = self.answer_bytes = self.largest = 0  # over UDP: nobody forges the sender of a TCP stream
        self.trouble = NO_TROUBLE

    def in_trouble(self) -> Trouble:
        """Its own troubles, to add to."""
        if self.trouble is NO_TROUBLE:
            self.trouble = Trouble()
        return self.trouble


class Refused:
    """A client that asked for names that do not exist."""

    __slots__ = ("frames", "names", "storm", "times")

    def __init__(self) -> None:
        self.times: deque[int] = deque(maxlen=STORM_ANSWERS)
        self.storm = 0
        self.frames: list[int] = []
        self.names: Counter[str] = Counter()


class Server:
    """Who answers, and whom."""

    __slots__ = ("address", "durations", "failed_frames", "odd_ports", "pairs", "rcodes", "truncated")

    def __init__(self, address: str) -> None:
        self.address = address
        self.pairs: dict[str, Pair] = {}
        self.durations = Durations()
        self.rcodes: Counter[int] = Counter()
        self.truncated = 0
        self.odd_ports: dict[int, int] = {}
        self.failed_frames: dict[int, list[int]] = {}


class Traffic:
    """All DNS of a capture, message by message."""

    def __init__(self) -> None:
        self.names = names = Names()
        self.reader = Reader()
        self.reader.evicted = lambda questions: names.fold(questions.values())
        self.servers: dict[str, Server] = {}
        self.pair_count = 0
        self.refused: dict[str, Refused] = {}
        self.open: dict[tuple[str, int, str, int, int, bool], Transaction] = {}
        self.most_open = FIRST_OPEN
        self.messages = self.queries = self.answers = self.tcp_messages = self.cut = 0
        self.durations = Durations()
        self.slowest: list[tuple[int, int, str, str, int]] = []
        self.rcodes: Counter[int] = Counter()
        self.opcodes: Counter[int] = Counter()
        self.malformed: Counter[str] = Counter()
        self.malformed_frames: list[int] = []
        self.foreign = 0
        self.repeated = self.unanswered = self.open_at_end = self.unasked = 0
        self.forged: list[tuple[int, str, str, str]] = []
        self.forged_count = 0
        self.mismatched = 0
        self.edns_sizes: Counter[int] = Counter()
        self.dnssec: Counter[str] = Counter()
        self.extended_errors: Counter[int] = Counter()
        self.extended_frames: dict[int, list[int]] = {}
        self.truncated = self.retried = 0
        self.truncated_waiting: dict[tuple[str, str, str, int], int] = {}
        self.transfers: list[tuple[str, str, str, int, int]] = []
        self.last_ns = 0

    def message(
        self,
        data: bytes,
        time_ns: int,
        frame: int,
        source: str,
        source_port: int,
        destination: str,
        destination_port: int,
        tcp: bool = False,
        cut: bool = False,
    ) -> bool:
        """Take one message; return whether it was DNS."""
        try:
            message = self.reader.read(data, cut=cut)
        except Malformed as problem:
            if source_port != DNS_PORT and destination_port != DNS_PORT:
                self.foreign += 1
                return False
            self.malformed[str(problem)] += 1
            if len(self.malformed_frames) < MOST_FRAMES:
                self.malformed_frames.append(frame)
            return False
        self.messages += 1
        if tcp:
            self.tcp_messages += 1
        if not message.whole:
            self.cut += 1
        if time_ns > self.last_ns:
            self.last_ns = time_ns
        if message.flags & 0x7800:
            self.opcodes[message.flags >> 11 & 15] += 1
        if message.flags & QR:
            server = self.servers.get(source)
            pair = (server.pairs.get(destination) if server is not None else None) or self._pair(destination, source)
            self._answer(message, data, time_ns, frame, pair, destination_port, source_port, tcp)
        else:
            server = self.servers.get(destination)
            pair = (server.pairs.get(source) if server is not None else None) or self._pair(source, destination)
            self._query(message, len(data), time_ns, frame, pair, source_port, destination_port, tcp)
        return True

    def _pair(self, client: str, server: str) -> Pair:
        if self.pair_count >= MOST_PAIRS:
            # A flood with forged senders: those beyond the limit are counted as one.
            client = server = "others"
        answering = self.servers.get(server)
        if answering is None:
            answering = self.servers[server] = Server(server)
        pair = answering.pairs.get(client)
        if pair is None:
            pair = answering.pairs[client] = Pair(client, answering)
            self.pair_count += 1
        return pair

    def pairs(self) -> Iterator[Pair]:
        """All pairs, server by server."""
        for server in self.servers.values():
            yield from server.pairs.values()

    def _query(
        self, message: Message, size: int, time_ns: int, frame: int, pair: Pair, client_port: int, server_port: int, tcp: bool
    ) -> None:  # fmt: skip
        self.queries += 1
        pair.queries += 1
        question = message.questions[0] if message.questions else None
        for asked in message.questions:  # nearly always one
            if not asked.frame:
                asked.frame = frame
            asked.queries += 1
            if asked.type == ANY:
                pair.in_trouble().any += 1
        if message.udp_size >= 0:
            self.edns_sizes[message.udp_size] += 1
            if message.do:
                self.dnssec["do"] += 1
        if message.flags & 0x30:
            if message.flags & 0x10:
                self.dnssec["cd"] += 1
            if message.flags & 0x20:
                self.dnssec["ad_asked"] += 1
        if server_port != DNS_PORT and len(pair.server.odd_ports) < MOST_FRAMES:
            pair.server.odd_ports[server_port] = frame
        if tcp:
            if self.truncated_waiting and question is not None:
                waiting = (pair.client, pair.server.address, question.folded, question.type)
                if self.truncated_waiting.pop(waiting, None) is not None:
                    self.retried += 1
        else:
            pair.query_bytes += size
        key = (pair.client, client_port, pair.server.address, server_port, message.ident, tcp)
        known = self.open.get(key)
        if known is not None:
            if _same(known.question, question) and time_ns - known.time_ns < REPEAT_NS:
                known.sent += 1
                pair.repeated += 1
                self.repeated += 1
                return
            del self.open[key]  # the new one goes to the end: the order is that of time
            if not known.answers:
                self._gave_up(known)
        elif len(self.open) >= self.most_open:
            self._let_go(time_ns)
        self.open[key] = Transaction(time_ns, question, frame, size, pair, tcp)

    def _answer(
        self, message: Message, data: bytes, time_ns: int, frame: int, pair: Pair, client_port: int, server_port: int, tcp: bool
    ) -> None:  # fmt: skip
        rcode = message.rcode
        server = pair.server
        size = len(data)
        self.answers += 1
        pair.answers += 1
        self.rcodes[rcode] += 1
        server.rcodes[rcode] += 1
        known = self.open.get((pair.client, client_port, server.address, server_port, message.ident, tcp))
        question = message.questions[0] if message.questions else known.question if known is not None else None
        if not tcp:
            pair.answer_bytes += size
            if size > pair.largest:
                pair.largest = size
                if size > 512 and len(pair.trouble.large_frames) < MOST_FRAMES:
                    pair.in_trouble().large_frames.append(frame)
        if question is not None:
            question.answer_bytes += size
            if not question.frame:
                question.frame = frame
        if known is None:
            self.unasked += 1
            trouble = pair.in_trouble()
            trouble.unasked += 1
            trouble.unasked_bytes += size
            if len(trouble.unasked_frames) < MOST_FRAMES:
                trouble.unasked_frames.append(frame)
        elif not known.answers:
            known.answers = 1
            known.answer = hash(data)
            duration = time_ns - known.time_ns
            server.durations.add(duration)
            self.durations.add(duration)
            if len(self.slowest) < MOST_SLOWEST or duration > self.slowest[0][0]:
                self._slow(duration, frame, question, server.address)
            asked = known.question
            if asked is not None and question is not asked and question is not None and question.folded != asked.folded:
                self.mismatched += 1
                self._forged(frame, pair, asked.name)
        else:
            self._second_answer(known, data, frame, pair, question)
        if rcode:
            self._failed(rcode, time_ns, frame, pair, question)
        flags = message.flags
        if flags & TC:
            self.truncated += 1
            server.truncated += 1
            if not tcp and question is not None and len(self.truncated_waiting) < MOST_WAITING:
                waiting = (pair.client, server.address, question.folded, question.type)
                self.truncated_waiting.setdefault(waiting, frame)
        if flags & 0x20:
            self.dnssec["ad"] += 1
        if message.signed:
            self.dnssec["signed"] += 1
        if message.extended_error >= 0:
            self.extended_errors[message.extended_error] += 1
            self.extended_frames.setdefault(message.extended_error, [])
            if len(self.extended_frames[message.extended_error]) < MOST_FRAMES:
                self.extended_frames[message.extended_error].append(frame)
        if (
            question is not None
            and question.type in {AXFR, IXFR}
            and message.answers
            and not rcode
            and len(self.transfers) < MOST_SLOWEST
        ):
            self.transfers.append((question.name, pair.client, server.address, frame, message.answers))

    def _slow(self, duration: int, frame: int, question: Question | None, server: str) -> None:
        entry = (
            duration,
            frame,
            question.name if question is not None else "",
            server,
            question.type if question else 0,
        )
        if len(self.slowest) < MOST_SLOWEST:
            heapq.heappush(self.slowest, entry)
        else:
            heapq.heapreplace(self.slowest, entry)

    def _second_answer(
        self, known: Transaction, data: bytes, frame: int, pair: Pair, question: Question | None
    ) -> None:
        known.answers += 1
        # A repeated query may get another answer (other order, other lifetime); two answers to one query may not.
        if known.answers > known.sent and hash(data) != known.answer and not known.tcp:
            self._forged(frame, pair, question.name if question is not None else "")

    def _forged(self, frame: int, pair: Pair, name: str) -> None:
        self.forged_count += 1
        if len(self.forged) < MOST_SLOWEST:
            self.forged.append((frame, pair.client, pair.server.address, name))

    def _failed(self, rcode: int, time_ns: int, frame: int, pair: Pair, question: Question | None) -> None:
        if rcode != 3:
            pair.failed += 1
            if question is not None:
                question.failed += 1
            frames = pair.server.failed_frames.setdefault(rcode, [])
            if len(frames) < MOST_FRAMES:
                frames.append(frame)
            return
        pair.nxdomain += 1
        if question is not None:
            question.nxdomain += 1
        refused = self.refused.get(pair.client)
        if refused is None:
            refused = self.refused[pair.client] = Refused()
        times = refused.times
        times.append(time_ns)
        if len(times) == STORM_ANSWERS and time_ns - times[0] <= STORM_NS:
            refused.storm += STORM_ANSWERS if not refused.storm else 1
            if len(refused.frames) < MOST_FRAMES:
                refused.frames.append(frame)
            if question is not None and len(refused.names) < 1000:
                refused.names[question.folded] += 1

    def _gave_up(self, transaction: Transaction) -> None:
        self.unanswered += 1
        pair = transaction.pair
        pair.unanswered += 1
        if len(pair.trouble.unanswered_frames) < MOST_FRAMES:
            pair.in_trouble().unanswered_frames.append(transaction.frame)

    def _let_go(self, now_ns: int) -> None:
        """Forget transactions older than anybody waits; of what is too much then, those answered and the oldest."""
        self._forget(now_ns, ANSWERED_NS)
        if len(self.open) > MOST_OPEN * 4 // 5:
            self._forget(now_ns, SECOND)
            for key in list(self.open)[: max(0, len(self.open) - MOST_OPEN // 2)]:
                transaction = self.open.pop(key)
                if not transaction.answers:
                    self._gave_up(transaction)
        # Some more before the next look, which costs a step for each of them.
        self.most_open = max(FIRST_OPEN, len(self.open) * 5 // 4)

    def _forget(self, now_ns: int, answered_ns: int) -> None:
        """Keep what waits for its answer, and what was answered within so many nanoseconds."""
        kept: dict[tuple[str, int, str, int, int, bool], Transaction] = {}
        for key, transaction in self.open.items():
            age_ns = now_ns - transaction.time_ns
            if age_ns <= (answered_ns if transaction.answers else REPEAT_NS):
                kept[key] = transaction
            elif not transaction.answers:
                self._gave_up(transaction)
        self.open = kept

    def finish(self, end_ns: int = 0) -> None:
        """Settle what is open at the capture's end, which other packets may put after the last message."""
        end_ns = max(end_ns, self.last_ns)
        for transaction in self.open.values():
            if transaction.answers:
                continue
            if end_ns - transaction.time_ns < LATE_NS:
                self.open_at_end += 1
            else:
                self._gave_up(transaction)
        self.open = {}
        self.names.fold(self.reader.questions.values())
        self.reader.questions.clear()


def _same(one: Question | None, other: Question | None) -> bool:
    # The same question is the same object, unless the reader's cache started again in between.
    return one is other or (
        one is not None and other is not None and one.folded == other.folded and one.type == other.type
    )
