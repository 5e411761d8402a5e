// A library that is no plug-in.
extern "C" int revode_no_plugin() { return 0; }
