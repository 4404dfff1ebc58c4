"""Python runs this at its start where this folder is on its path: in Ray's workers, too."""

from lafp.video import VIDEO_DECODERS

VIDEO_DECODERS.entries["hostile"] = "tests.hostile_decoder:HostileDecoder"
