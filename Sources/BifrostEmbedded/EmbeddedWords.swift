// A program with an embedded cluster has to import nothing but this module.
@_exported public import Bifrost
@_exported public import BifrostHost
