"""Suffixes of audio files."""

__all__ = ["AUDIO_SUFFIXES"]

#: Suffixes of the formats that libsndfile recognises by content. RAW has no header, so it cannot be among them.
AUDIO_SUFFIXES = frozenset(
    (
        *(".wav", ".wave", ".bwf", ".bw64", ".rf64", ".w64", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
        *(".mp1", ".mp2", ".mp3", ".mpa", ".mpga", ".flac", ".ogg", ".oga", ".opus"),
        *(".voc", ".nist", ".sph", ".ircam", ".sf", ".avr", ".paf", ".svx", ".8svx", ".iff", ".pvf", ".htk"),
        *(".mat", ".sds", ".xi", ".wve", ".mpc"),
    )
)
