# A client with a connection, told what to do by its standard input. Arguments: address and port.
use strict;
use Socket qw(:all);

use constant {
    TCP_REPAIR => 19, TCP_REPAIR_QUEUE => 20, TCP_QUEUE_SEQ => 21, SEND_QUEUE => 2, ON => 1, OFF_NO_PROBE => -1,
    IP_HOPS => 2, IPV6_HOPS => 16, IPV6_CHECKSUM => 7, RST => 0x04, SYN => 0x02,
};

my ($error, $server) = getaddrinfo(@ARGV, { socktype => SOCK_STREAM, flags => AI_NUMERICHOST });
die $error if $error;
my $v4 = $server->{family} == AF_INET;
socket(my $tcp, $server->{family}, SOCK_STREAM, IPPROTO_TCP) or die "socket: $!";
connect($tcp, $server->{addr}) or die "connect: $!";

# Both ends as (port, address).
my $unpack = $v4 ? \&unpack_sockaddr_in : \&unpack_sockaddr_in6;
my ($here, $there) = map { [ ($unpack->($_))[ 0, 1 ] ] } getsockname($tcp), $server->{addr};

sub say_ { syswrite(STDOUT, "\n> $_[0]\n") }

# Each question is another letter, so that a late answer to an earlier one is known.
my $letter = "A";
sub question { my $asked = $letter++; syswrite($tcp, $asked = substr($asked, -1)); return $asked }

sub is_answered {
    my ($asked) = @_;
    while (1) {
        my $ready = "";
        vec($ready, fileno($tcp), 1) = 1;
        return 0 unless select($ready, undef, undef, 0.3);
        return 0 unless sysread($tcp, my $got, 64);
        return 1 if index($got, $asked) >= 0;
    }
}

# The number of the next byte that this end would send.
sub next_number {
    setsockopt($tcp, IPPROTO_TCP, TCP_REPAIR, pack("i", ON)) or die "TCP_REPAIR: $!";
    setsockopt($tcp, IPPROTO_TCP, TCP_REPAIR_QUEUE, pack("i", SEND_QUEUE)) or die "TCP_REPAIR_QUEUE: $!";
    my $number = unpack("L", getsockopt($tcp, IPPROTO_TCP, TCP_QUEUE_SEQ));
    setsockopt($tcp, IPPROTO_TCP, TCP_REPAIR, pack("i", OFF_NO_PROBE)) or die "TCP_REPAIR: $!";
    return $number;
}

sub segment {
    my ($flags, $number, $hops) = @_;
    socket(my $raw, $server->{family}, SOCK_RAW, IPPROTO_TCP) or die "raw socket: $!";
    setsockopt($raw, $v4 ? IPPROTO_IP : IPPROTO_IPV6, $v4 ? IP_HOPS : IPV6_HOPS, pack("i", $hops)) or die "hops: $!";
    my $sum = 0;
    my $header = sub { pack("nnNNCCnnn", $here->[0], $there->[0], $number, 0, 0x50, $flags, 1024, $_[0], 0) };
    if ($v4) {
        my $pseudo = $here->[1] . $there->[1] . pack("nn", IPPROTO_TCP, 20);
        $sum += $_ for unpack("n*", $pseudo . $header->(0));
        $sum = ($sum & 0xffff) + ($sum >> 16) while $sum >> 16;
        $sum = 0xffff & ~$sum;
    } else {
        setsockopt($raw, IPPROTO_IPV6, IPV6_CHECKSUM, pack("i", 16)) or die "checksum: $!";
    }
    my $to = $v4 ? pack_sockaddr_in(0, $there->[1]) : pack_sockaddr_in6(0, $there->[1]);
    send($raw, $header->($sum), 0, $to) or die "send: $!";
}

say_("open $here->[0]");
while (my $line = <STDIN>) {
    if ($line eq "ask\n") {
        say_(is_answered(question()) ? "answer" : "nothing");
    } elsif ($line eq "send\n") {
        question();
        say_("sent");
    } elsif ($line =~ /^reset (\d+)$/) {
        my $number = next_number();
        segment(RST, $number, $1);
        segment(SYN, $number + 100_000, $1);
        say_("sent");
    }
}
