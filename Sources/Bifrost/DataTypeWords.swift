// The words of the data types that signatures here mention: with them a program has to import nothing but this module.
@_exported public import typealias DataTypes.EntryCondition
@_exported public import struct DataTypes.FoundEntry
@_exported public import struct DataTypes.MapTransaction
@_exported public import struct DataTypes.NumberFound
@_exported public import struct DataTypes.NumberState
@_exported public import enum DataTypes.Numeral
@_exported public import struct DataTypes.ObjectEntry
@_exported public import enum DataTypes.ObjectLimits
@_exported public import struct DataTypes.QueueCounts
@_exported public import struct DataTypes.SetCombine
