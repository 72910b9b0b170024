"""The worked examples: for each tool, situations of the small office its page shows, with the line one types there.

Addresses and names are those of the demo's office (10.64.1.0/24 and its cameras, 10.64.2.0/24); the interface is `sbx64`. The order is the
order they are run in: what a later one needs (a capture, an asset) an earlier one made. A tool without a line here is shown by `fallback`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.core.registry import ToolSpec, load_tools

CAPTURE = "office/morning.pcap"
"""What the first example of tcpdump leaves in the store, and every reader of captures is shown on."""

DOOR, YARD, OFFICE = "--target 10.64.2.11", "--target 10.64.2.12", "--credentials axis/office"
"""The two cameras, and the account on them."""

SETUP = (
    "signalbox policy allow 10.64.1.0/24 10.64.2.0/24",
    'signalbox policy exclude 10.64.1.9 --reason "the lift"',
    "signalbox policy masscan on",
    "signalbox policy allow-program sha256sum grep",
    "signalbox policy ceiling destroy",
    'echo "$SLACK_URL" | signalbox block create slack/ops --url -',
    'echo "$TEAMS_URL" | signalbox block create teams/noc --url - --kind workflow',
    'echo "$TICKETS_URL" | signalbox block create webhook/tickets --url -',
    'echo "$MAIL_SERVER" | signalbox block create mail/noc --server - --sender noc@office.example --default-to ops@office.example',
    'echo "$COMMUNITY" | signalbox block create snmp/core --community -',
    (
        'echo "$PASSWORD" | signalbox block create axis/office --username root --password - --verification pinned '
        '--fingerprints "$DOOR" --fingerprints "$YARD"'
    ),
    "signalbox discover 10.64.1.0/24 10.64.2.0/24 --profile standard",
)
"""What is typed before the examples, in a signalbox that has just been started; secrets come from the environment."""


@dataclass(frozen=True)
class Situation:
    """One worked example.

    Attributes:
        tool: Name of the tool.
        title: What one wants to know there; a sentence without its full stop.
        options: What follows `signalbox tool run NAME`, as a person types it.
        status: Exit status it must end with.
        lines: Most lines shown of each table.
        needed: Whether other examples need what it leaves behind.
    """

    tool: str
    title: str
    options: str
    status: int = 0
    lines: int = 12
    needed: bool = False


SITUATIONS = (
    # --- what others need
    Situation(
        "tcpdump",
        "Everything this machine exchanges with the office in twelve seconds, whole packets, kept under a name",
        f"--interface sbx64 --filter 'ip or ip6' --duration 12 --snap-length 65535 --name {CAPTURE}",
        needed=True,
    ),
    Situation(
        "asset_create",
        "A camera that no scan has seen yet",
        "--hostname lobby-cam --mac 00:40:8c:12:34:56 --vendor Axis --type camera --location Lobby --tag floor:0",
        needed=True,
    ),
    # --- assets
    Situation("asset_list", "What a discovery of the office put into the inventory, by address", "--sort address"),
    Situation("asset_query", "Everything of one vendor", "--vendor axis"),
    Situation("asset_query", "Who has this MAC, in any notation", "--mac 3CD9.2B07.AA20"),
    Situation("asset_update", "Say who answers for it", "--asset lobby-cam --owner facility --location Entrance"),
    Situation(
        "asset_update",
        "A change that was decided on an older version is refused",
        "--asset lobby-cam --version 1 --owner ops",
        1,
    ),
    Situation("asset_delete", "Without the name repeated nothing is deleted", "--asset lobby-cam", 3),
    Situation("asset_delete", "By name", "--asset lobby-cam --confirm lobby-cam"),
    # --- automation
    Situation(
        "shell_command",
        "A program that policy lists, with something to read",
        "--program sha256sum --stdin 'hostname core-sw1'",
    ),
    Situation(
        "shell_command",
        "A search without a match is no failure here: grep's status 1 is expected",
        "--program grep --argument=-c --argument error --stdin 'all is well' --expect 0 1",
    ),
    Situation("shell_command", "A program that policy does not list", "--program rm --argument=-r --argument /srv", 3),
    # --- messages
    Situation(
        "sendmail",
        "Write to the block's default recipients",
        "--server mail/noc --subject 'Backup done' --text 'core-sw1 in 12 s'",
    ),
    Situation(
        "sendmail",
        "Several recipients, one of whom the server refuses",
        "--server mail/noc --to ops@office.example --to gone@office.example --subject '3 new hosts' --text 10.64.1.60",
    ),
    Situation("slack", "Say something", "--endpoint slack/ops --text 'Backup of *core-sw1* done.'"),
    Situation(
        "teams",
        "An alert with facts",
        "--endpoint teams/noc --title 'Camera offline' --colour attention "
        """--facts '{"Camera": "camera-yard", "Last seen": "14:05 UTC"}'""",
    ),
    Situation(
        "webhook",
        "Tell a ticket system",
        """--endpoint webhook/tickets --json-body '{"event": "camera-offline", "camera": "camera-yard"}'""",
    ),
    Situation(
        "webhook",
        "An address of the private network, which policy has not opened to URLs",
        "--url http://10.64.1.20/reset",
        3,
    ),
    # --- scans
    Situation("arp_scan", "Who is on this link", "--target 10.64.1.0/24"),
    Situation("netdiscover", "Who is on this link", "--target 10.64.1.0/24"),
    Situation("nmap", "Which hosts of the office are up", "--target 10.64.1.0/24"),
    Situation(
        "nmap",
        "What answers on some ports of the file server",
        "--target 10.64.1.10 --profile services --ports 22,80,443,5000,8443",
    ),
    Situation(
        "masscan",
        "Web and SSH ports of the cameras' network, which is behind a router",
        "--target 10.64.2.0/24 --ports 22,80,443",
    ),
    # --- probes
    Situation("ping", "Is the file server there, and how far is it", "--target files.office.example"),
    Situation(
        "ping",
        "A host that answers and one that is not there",
        "--target 10.64.1.10 --target 10.64.1.77 --count 2 --interval 0.2",
    ),
    Situation("ping", "A network that policy does not allow", "--target 192.0.2.1", 3),
    Situation(
        "tcp_port_check", "Open, closed, and nobody there", "--target 10.64.1.10 --target 10.64.1.77 --ports 22,80,8080"
    ),
    Situation("dns_lookup", "Addresses of a name, asked of the system's resolver", "--name files.office.example"),
    Situation(
        "dns_lookup",
        "Who takes mail for a domain, the name of an address, and a name that does not exist, asked of one server",
        "--name office.example --name 10.64.1.20 --name nosuch.office.example --type MX --server 10.64.1.11",
    ),
    Situation(
        "http_check",
        "Does the file server's page answer, and is it the right one",
        "--url http://files.office.example/ --body Files",
    ),
    Situation(
        "http_check",
        "A camera whose certificate has expired, and a page that says something else",
        "--url https://10.64.2.11/ --url http://10.64.1.20/ --body LaserJet",
    ),
    Situation(
        "tls_certificate",
        "A server whose authority is not known here, and one whose certificate has expired",
        "--target files.office.example --target 10.64.2.11",
    ),
    Situation(
        "snmp_query",
        "Who is this switch, and what hangs on it",
        "--target 10.64.1.2 --credentials snmp/core --view system --view neighbours",
    ),
    Situation(
        "snmp_query",
        "One value by its object identifier",
        "--target 10.64.1.2 --credentials snmp/core --get 1.3.6.1.2.1.1.5.0",
    ),
    Situation(
        "service_identity",
        "SSH host keys and a web server's title and certificate",
        "--endpoint ssh://10.64.1.10 --endpoint https://10.64.1.10",
    ),
    Situation("traceroute", "The way to a camera behind the router", "--target 10.64.2.11"),
    # --- captures
    Situation("dpkt", "What is in this capture", f"--capture {CAPTURE}", lines=7),
    Situation("tshark", "Which protocols are in it", f"--capture {CAPTURE} --mode hierarchy"),
    Situation(
        "tshark",
        "Which names were asked for, and by whom",
        f"--capture {CAPTURE} --display-filter 'dns.flags.response == 0' --field ip.src --field dns.qry.name --rows 6",
    ),
    Situation(
        "ngrep", "What was asked of web servers", f"--capture {CAPTURE} --pattern '^(GET|POST) ' --port 80", lines=8
    ),
    Situation("tcpflow", "What the mail server was told", f"--capture {CAPTURE} --port 25"),
    Situation(
        "pyshark",
        "A DNS answer, field by field",
        f"--capture {CAPTURE} --display-filter dns.flags.response==1 --layer dns --most 1",
        lines=20,
    ),
    Situation("scapy", "Which MAC has an address", "--probe arp_ping --target 10.64.1.20 --count 2"),
    Situation("scapy", "A half-open look at three ports", "--probe tcp_syn --target 10.64.1.10 --ports 22,80,8080"),
    Situation(
        "scapy",
        "A question to everybody on a link reaches what is excluded there, too (the lift)",
        "--probe mdns --interface sbx64 --target 10.64.1.0/24 --timeout 3",
        3,
    ),
    Situation(
        "scapy",
        "A packet of one's own: a DNS question in UDP",
        """--probe packet --target 10.64.1.11 --packet '{"layer": "IP"}' --packet '{"layer": "UDP", "fields": {"dport": 53}}' """
        """--packet '{"layer": "DNS", "fields": {"qname": "printer.office.example", "qtype": "A"}}'""",
    ),
    # --- cameras
    Situation("vapix_device_info", "What are these two, asked without an account", f"{DOOR} {YARD}"),
    Situation(
        "vapix_device_info",
        "Is the clock right, what can it do, how warm is it",
        f"{YARD} {OFFICE} --view basic --view time --view capabilities --view temperature",
    ),
    Situation("vapix_ptz_control", "Where does the camera in the yard point", f"{YARD} {OFFICE} --action position"),
    Situation(
        "vapix_ptz_control",
        "Without its name repeated nothing moves",
        f"{YARD} {OFFICE} --action absolute --pan 45 --tilt -10",
        3,
    ),
    Situation(
        "vapix_ptz_control",
        "Look to the right and down, and say where it stands then",
        f"{YARD} {OFFICE} --action absolute --pan 45 --tilt -10 --confirm 10.64.2.12",
    ),
    Situation("vapix_video_streaming", "What it offers", f"{YARD} {OFFICE}"),
    Situation(
        "vapix_video_streaming",
        "A picture of both, into the store",
        f"{DOOR} {YARD} {OFFICE} --action snapshot --resolution 640x360",
    ),
    Situation(
        "vapix_video_streaming",
        "An address for a player; the password is not in it",
        f"{YARD} {OFFICE} --action urls --codec h264 --resolution 1280x720 --fps 10",
    ),
    Situation("vapix_imaging", "What the picture is set to", f"{DOOR} {OFFICE}"),
    Situation(
        "vapix_imaging",
        "A little brighter; before and after are read from the camera",
        f"{DOOR} {OFFICE} --action set --brightness 60",
    ),
    Situation("vapix_daynight", "Day, night or automatic", f"{DOOR} {YARD} {OFFICE}"),
    Situation("vapix_light_control", "Which lights are there", f"{DOOR} {OFFICE}"),
    Situation("vapix_io_ports", "What do its inputs and outputs say", f"{DOOR} {OFFICE}"),
    Situation(
        "vapix_overlay", "Name and time on the picture", f"{DOOR} {OFFICE} --action add_text --text 'Door %F %T'"
    ),
    Situation("vapix_overlay", "What lies on the picture", f"{DOOR} {OFFICE}"),
    Situation(
        "vapix_privacy_mask",
        "Cover the neighbour's window",
        f"{DOOR} {OFFICE} --action add --name Neighbour --width 20 --height 30 --center-x 25 --center-y 50",
    ),
    Situation(
        "vapix_privacy_mask",
        "Without its name nothing is uncovered",
        f"{DOOR} {OFFICE} --action remove --name Neighbour",
        3,
    ),
    Situation("vapix_stream_profiles", "Which stream profiles are there", f"{DOOR} {OFFICE}"),
    Situation("vapix_edge_storage", "Is the card in order, and is something recorded", f"{DOOR} {OFFICE} --health"),
    Situation("vapix_recording", "What is on the card", f"{DOOR} {OFFICE}"),
    Situation("vapix_event_services", "Which rules are there", f"{DOOR} {OFFICE}"),
    Situation(
        "vapix_event_streaming",
        "How its ports and lights are, and what they do in five seconds",
        f"{DOOR} {OFFICE} --kind port light --seconds 5",
        lines=16,
    ),
    Situation("vapix_network_settings", "Address, names and name servers", f"{DOOR} {OFFICE}"),
    # --- analyzers
    Situation("dns_analyzer", "How well names are answered", f"--capture {CAPTURE}", lines=7),
    Situation("dns_analyzer", "The same, listening now", "--interface sbx64 --filter 'port 53' --duration 12", lines=3),
    Situation("http_analyzer", "Who asks web servers for what", f"--capture {CAPTURE}", lines=7),
    Situation("tls_analyzer", "Versions, names and certificates", f"--capture {CAPTURE}", lines=7),
    Situation("tcp_analyzer", "How the connections fare", f"--capture {CAPTURE}", lines=7),
    Situation("udp_analyzer", "Who talks UDP, and who gets no answer", f"--capture {CAPTURE}", lines=7),
    Situation("ssh_analyzer", "SSH servers, their algorithms, and failed logins", f"--capture {CAPTURE}", lines=7),
)


def situations() -> list[Situation]:
    """Every tool's situations, in the order they are run in; tools that have none here get their `fallback`."""
    tools = load_tools()
    shown = {situation.tool for situation in SITUATIONS}
    return [*SITUATIONS, *(fallback(spec) for spec in tools.values() if spec.name not in shown)]


def of_tool(name: str) -> list[Situation]:
    """One tool's situations."""
    return [situation for situation in situations() if situation.tool == name]


def fallback(spec: ToolSpec) -> Situation:
    """The situation of a tool that is new: the office's capture for a reader of captures, else the first example of its card."""
    from deployments.cli._options import command_line

    if {"interface", "capture"} <= set(spec.params_model.model_fields):
        # Of what the card shows on a capture, only what the tool cannot do without: hosts and times are not those of the office.
        shown = next((one.params for one in spec.examples if "capture" in one.params), {})
        required = {name: shown[name] for name, field in spec.params_model.model_fields.items() if field.is_required()}
        options = command_line(spec, {"capture": CAPTURE, **required})
        return Situation(spec.name, "What it says about the office", options, lines=7)
    example = spec.examples[0]
    return Situation(spec.name, example.title, command_line(spec, example.params))
